//! Gather and SwiGLU: byte for byte what the references give, on the rows that experts use and nowhere else.

use check::devices::{devices, seeded};
use check::moe::Routing;
use check::moe::rows::{
    Batch, FORMATS, LAYOUTS, Swiglu, activations, check_gather, check_report, gathered, run_gather, weights,
};
use deepseek_kernels::bf16;
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::moe::{ExpertLayout, ExpertMapSpec};
use deepseek_kernels::quant::ScaleFormat;
use oracles::exp_f32;
use oracles::moe::swiglu;
use oracles::quant::quantizer_rows;
use proptest::prelude::*;

#[test]
fn gathered_rows_are_those_of_the_quantiser() {
    for device in devices() {
        for layout in LAYOUTS {
            for (index, routing) in check::moe::ROUTINGS.into_iter().enumerate() {
                let batch = Batch::new((40, 3, 7), layout, routing, 5);
                check_gather(&device, &batch, &quantizer_rows(40, 384, 1), 384, FORMATS[index % 2]);
            }
        }
    }
}

#[test]
fn every_option_on_every_layout() {
    for device in devices() {
        for layout in LAYOUTS {
            let batch = Batch::new((30, 3, 7), layout, Routing::Strangers, 5);
            let x = activations(&batch, 256, 3);
            let weights = weights(90);
            let weighted = || Some(&weights[..]);
            for (clamp, weights, format) in [
                (None, None, ScaleFormat::Fp32),
                (Some(7.0), None, ScaleFormat::PowerOfTwo),
                (None, weighted(), ScaleFormat::PowerOfTwo),
                (Some(2.5), weighted(), ScaleFormat::Fp32),
                (Some(0.0), weighted(), ScaleFormat::Fp32),
            ] {
                Swiglu { batch: &batch, x: &x, intermediate: 256, clamp, weights, format }.check(&device);
            }
        }
    }
}

/// Every BF16 gate, so every exponential that can occur.
#[test]
fn every_gate() {
    for device in devices() {
        let batch = Batch::new((512, 1, 1), ExpertLayout::Ragged, Routing::AllToOne, 0);
        let x: Vec<bf16> = (0..512_u16)
            .flat_map(|row| {
                let gates = (0..128).map(move |i| bf16::from_bits(row << 7 | i));
                gates.chain((0..128).map(move |i| bf16::from_f32(1.0 + f32::from(i + row % 2) / 64.0)))
            })
            .collect();
        for clamp in [None, Some(10.0)] {
            Swiglu {
                batch: &batch,
                x: &x,
                intermediate: 128,
                clamp,
                weights: None,
                format: ScaleFormat::Fp32,
            }
            .check(&device);
        }
    }
}

#[test]
fn every_routing() {
    for device in devices() {
        for routing in check::moe::ROUTINGS {
            for layout in LAYOUTS {
                let batch = Batch::new((21, 2, 5), layout, routing, 8);
                let (x, w) = (activations(&batch, 128, 4), weights(42));
                let case = Swiglu {
                    batch: &batch,
                    x: &x,
                    intermediate: 128,
                    clamp: None,
                    weights: Some(&w),
                    format: ScaleFormat::Fp32,
                };
                case.check(&device);
            }
        }
    }
}

/// What stands in the segments is no count of rows: it is cut to the rows there are, and told.
#[test]
fn bad_segments_are_cut() {
    for device in devices() {
        for (layout, bad, becomes) in [
            (ExpertLayout::Ragged, i32::MIN, 0),
            (ExpertLayout::Ragged, -1, 0),
            (ExpertLayout::Ragged, 13, 12),
            (ExpertLayout::Ragged, i32::MAX, 12),
            (ExpertLayout::Masked { max_rows: 4 }, -7, 0),
            (ExpertLayout::Masked { max_rows: 4 }, 5, 4),
            (ExpertLayout::Masked { max_rows: 4 }, i32::MAX, 4),
        ] {
            let mut batch = Batch::new((6, 2, 3), layout, Routing::AllToOne, 0);
            let x = vec![bf16::ONE; 12 * 256];
            let segment = |batch: &mut Batch, value: i32| match layout {
                ExpertLayout::Masked { .. } => batch.map.counts[2] = value,
                _ => batch.map.offsets[3] = value,
            };
            segment(&mut batch, bad);
            let out = Swiglu {
                batch: &batch,
                x: &x,
                intermediate: 128,
                clamp: None,
                weights: None,
                format: ScaleFormat::Fp32,
            }
            .run(&device);
            segment(&mut batch, becomes);
            let want = Swiglu {
                batch: &batch,
                x: &x,
                intermediate: 128,
                clamp: None,
                weights: None,
                format: ScaleFormat::Fp32,
            }
            .reference();
            out.check(&want, (12, 128), |row| batch.used(row));
            check_report(&device, false, true);
        }
    }
}

/// A route that does not exist is padding, and told.
#[test]
fn routes_that_do_not_exist_are_zero() {
    for device in devices() {
        let batch = |routes: [i32; 2]| {
            let mut batch = Batch::new((6, 2, 3), ExpertLayout::Ragged, Routing::Uniform, 0);
            [batch.map.row_route[3], batch.map.row_route[7]] = routes;
            batch
        };
        let (bad, cut) = (batch([12, i32::MIN]), batch([-1, -1]));
        let (x, w) = (vec![bf16::ONE; 12 * 256], weights(12));
        let (weights, format) = (Some(&w[..]), ScaleFormat::Fp32);
        let case = |batch| Swiglu { batch, x: &x, intermediate: 128, clamp: None, weights, format };
        case(&bad).run(&device).check(&case(&cut).reference(), (12, 128), |_| true);
        check_report(&device, false, true);
        let rows = run_gather(&device, &bad, &x[..6 * 256], 256, format);
        rows.check(&gathered(&cut, &x[..6 * 256], 256, format), (12, 256), |_| true);
        check_report(&device, false, true);
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for (shape, intermediate) in [((0, 2, 3), 128), ((4, 2, 3), 0)] {
            let batch = Batch::new(shape, ExpertLayout::Ragged, Routing::Uniform, 0);
            let x = vec![bf16::ONE; batch.rows() * 2 * intermediate];
            Swiglu {
                batch: &batch,
                x: &x,
                intermediate,
                clamp: None,
                weights: None,
                format: ScaleFormat::Fp32,
            }
            .check(&device);
            check_gather(
                &device,
                &batch,
                &vec![bf16::ONE; shape.0 * intermediate],
                intermediate,
                ScaleFormat::Fp32,
            );
        }
    }
}

/// A row's bits do not depend on the rows beside it.
#[test]
fn a_batch_split_in_two_gives_the_same_bits() {
    for device in devices() {
        let whole = Batch::new((37, 1, 1), ExpertLayout::Ragged, Routing::AllToOne, 0);
        let x = activations(&whole, 256, 9);
        let run = |first: usize, rows: usize| {
            let batch = Batch::new((rows, 1, 1), ExpertLayout::Ragged, Routing::AllToOne, 0);
            let x = &x[first * 512..][..rows * 512];
            let out = Swiglu {
                batch: &batch,
                x,
                intermediate: 256,
                clamp: None,
                weights: None,
                format: ScaleFormat::Fp32,
            }
            .run(&device);
            let codes: Vec<u8> = out.q.into_checked(|c| c.to_bits()).iter().map(|c| c.to_bits()).collect();
            let sf: Vec<u32> = out.sf.into_checked(f32::to_bits).iter().map(|s| s.to_bits()).collect();
            (codes, sf)
        };
        let (all, front, back) = (run(0, 37), run(0, 14), run(14, 23));
        assert_eq!(all.0, [front.0, back.0].concat());
        let rows = |(g, row): (usize, usize)| {
            if row < 14 { front.1[g * 14 + row] } else { back.1[g * 23 + row - 14] }
        };
        assert!((0..2).flat_map(|g| (0..37).map(move |row| (g, row))).map(rows).eq(all.1.iter().copied()));
        let _ = device.poll_error();
    }
}

/// The reference itself, against f64: one rounding of exp, sum, quotient and product each. Below -88.72 the exponential
/// overflows and the result is 0.
#[test]
fn the_reference_is_silu_times_up() {
    for i in -40_000..40_000 {
        let (gate, up) = (i as f32 * 2.5e-3, (i as f32 * 0.7).sin() * 3.0);
        let exact = f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * f64::from(up);
        let got = f64::from(swiglu(gate, up, None));
        if gate < -88.7228 {
            assert_eq!(got, 0.0, "gate {gate}");
            continue;
        }
        // exp 1 ulp (2^-23), the sum, the quotient and the product half an ulp each.
        let bound =
            exact.abs() * (2.0_f64.powi(-23) + 3.0 * 2.0_f64.powi(-24)) * 1.01 + f64::from(f32::MIN_POSITIVE);
        assert!((got - exact).abs() <= bound, "gate {gate}, up {up}: {got}, exactly {exact}");
    }
    assert_eq!(swiglu(3.0, -9.0, Some(2.0)), -2.0 / (1.0 + exp_f32(-2.0)) * 2.0);
    assert_eq!(swiglu(-3.0, 1.0, Some(2.0)), swiglu(-3.0, 1.0, None), "a gate is clamped from above only");
    assert!(swiglu(f32::NAN, 1.0, Some(2.0)).is_nan() && swiglu(1.0, f32::NAN, Some(2.0)).is_nan());
}

#[test]
fn segments_of_a_map_are_those_of_the_spec() {
    let spec = |layout| ExpertMapSpec { tokens: 5, top_k: 2, experts: 3, layout };
    assert_eq!(spec(LAYOUTS[0]).segments(), Segments::Ragged { rows: 10 });
    assert_eq!(spec(LAYOUTS[1]).segments(), Segments::Ragged { rows: 48 });
    assert_eq!(spec(LAYOUTS[2]).segments(), Segments::Masked { max_rows: 9 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_batch(
        tokens in 1..40_usize, top_k in 1..5_usize, experts in 1..12_usize, blocks in 1..4_usize, layout in 0..3_usize,
        routing in 0..check::moe::ROUTINGS.len(), weighted in any::<bool>(), power in any::<bool>(), seed in any::<u64>(),
    ) {
        let batch = Batch::new((tokens, top_k, experts), LAYOUTS[layout], check::moe::ROUTINGS[routing], seed);
        let (x, w) = (activations(&batch, 128 * blocks, seed), weights(tokens * top_k));
        let format = FORMATS[usize::from(power)];
        let weights = weighted.then_some(&w[..]);
        let case = Swiglu { batch: &batch, x: &x, intermediate: 128 * blocks, clamp: None, weights, format };
        for device in seeded([seed]) {
            case.check(&device);
            check_gather(&device, &batch, &quantizer_rows(tokens, 128 * blocks, seed), 128 * blocks, format);
        }
    }
}
