//! SwiGLU: byte for byte what the reference gives, on the rows that experts use and nowhere else.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{devices, seeded};
use check::memory::{Memory, Output};
use check::moe::expert_map::ExpertMapCase;
use check::moe::swiglu_quantize::{SwigluQuantizeCase, SwigluQuantizeProblem};
use check::moe::{LAYOUTS, ROUTINGS, Routing};
use check::quant::Rule;
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::moe::{ExpertLayout, ExpertMapSpec, GateUpOrder};
use deepseek_kernels::{Device, F8E4M3, bf16};
use oracles::exp_f32;
use oracles::moe::swiglu;
use proptest::prelude::*;

fn map(shape: (usize, usize, usize), layout: ExpertLayout, routing: Routing) -> ExpertMapCase {
    ExpertMapCase { routing, ..ExpertMapCase::new(shape).laid_out(layout) }
}

fn outputs(problem: SwigluQuantizeProblem, device: &Device) -> Vec<Output> {
    attempt(Arc::new(problem), device, memory_of("SwiGLU"))
        .unwrap_or_else(|error| panic!("{error:#}"))
        .outputs
}

#[test]
fn every_option_on_every_layout() {
    for device in devices() {
        for layout in LAYOUTS {
            let case = SwigluQuantizeCase::new(map((30, 3, 7), layout, Routing::Strangers), 256);
            for (clamp, weighted, rule) in [
                (None, false, Rule::FP32),
                (Some(7.0), false, Rule::POWER_OF_TWO),
                (None, true, Rule::POWER_OF_TWO),
                (Some(2.5), true, Rule::FP32),
                (Some(0.0), true, Rule::FP32),
            ] {
                for order in [GateUpOrder::GateFirst, GateUpOrder::UpFirst] {
                    pass(&SwigluQuantizeCase { clamp, weighted, rule, order, ..case }, &device);
                }
            }
        }
    }
}

/// Halves exchanged, and the order: the same bits.
#[test]
fn either_order_gives_the_same_bits() {
    for device in devices() {
        for layout in LAYOUTS {
            let case = SwigluQuantizeCase::new(map((30, 3, 7), layout, Routing::Strangers), 200);
            let problem = SwigluQuantizeCase { clamp: Some(2.0), weighted: true, ..case }.problem();
            let mut exchanged = problem.clone();
            exchanged.case.order = GateUpOrder::UpFirst;
            exchanged.x.chunks_exact_mut(400).for_each(|row| row.rotate_left(200));
            assert!(outputs(problem, &device) == outputs(exchanged, &device), "{layout:?}");
        }
    }
}

/// Every BF16 gate, so every exponential that can occur.
#[test]
fn every_gate() {
    let row = |row: u16| {
        let gates = (0..128).map(move |i| bf16::from_bits(row << 7 | i));
        gates.chain((0..128).map(move |i| bf16::from_f32(1.0 + f32::from(i + row % 2) / 64.0)))
    };
    let x: Vec<bf16> = (0..512).flat_map(row).collect();
    let case = SwigluQuantizeCase::new(map((512, 1, 1), ExpertLayout::Ragged, Routing::AllToOne), 128);
    for device in devices() {
        for clamp in [None, Some(10.0)] {
            let case = SwigluQuantizeCase { clamp, rule: Rule::FP32, ..case };
            outputs(SwigluQuantizeProblem { x: x.clone(), ..case.problem() }, &device);
        }
    }
}

#[test]
fn every_routing() {
    for device in devices() {
        for routing in ROUTINGS {
            for layout in LAYOUTS {
                let case = SwigluQuantizeCase::new(map((21, 2, 5), layout, routing), 128);
                pass(&SwigluQuantizeCase { weighted: true, ..case }, &device);
            }
        }
    }
}

/// What stands in the segments is no count of rows: it is cut to the rows there are; the judge knows that it is told of.
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
            let case = SwigluQuantizeCase::new(map((6, 2, 3), layout, Routing::AllToOne), 128);
            let run = |value: i32| {
                let mut problem = case.problem();
                problem.x.fill(bf16::ONE);
                match layout {
                    ExpertLayout::Masked { .. } => problem.batch.map.counts[2] = value,
                    _ => problem.batch.map.offsets[3] = value,
                }
                outputs(problem, &device)
            };
            assert!(run(bad) == run(becomes), "{bad} is {becomes}");
        }
    }
}

/// Ragged rows are used up to the last end, whatever stands before it.
#[test]
fn the_last_end_alone_counts() {
    for device in devices() {
        for (last, ends) in [(7, [0, 12, 3]), (7, [9, -1, 12]), (0, [0, 5, 6]), (12, [3, i32::MAX, i32::MIN])] {
            let case = SwigluQuantizeCase::new(map((6, 2, 3), ExpertLayout::Ragged, Routing::AllToOne), 128);
            let mut problem = case.problem();
            problem.x.fill(bf16::ONE);
            problem.batch.map.offsets = [&ends[..], &[last]].concat();
            outputs(problem, &device);
        }
    }
}

/// A route that does not exist is padding; the judge knows that it is told of.
#[test]
fn routes_that_do_not_exist_are_zero() {
    let case = SwigluQuantizeCase::new(map((6, 2, 3), ExpertLayout::Ragged, Routing::Uniform), 128);
    for device in devices() {
        let run = |routes: [i32; 2]| {
            let mut problem = SwigluQuantizeCase { weighted: true, ..case }.problem();
            problem.x.fill(bf16::ONE);
            [problem.batch.map.row_route[3], problem.batch.map.row_route[7]] = routes;
            outputs(problem, &device)
        };
        assert!(run([12, i32::MIN]) == run([-1, -1]));
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for (shape, intermediate) in [((0, 2, 3), 128), ((4, 2, 3), 0)] {
            pass(&SwigluQuantizeCase::new(ExpertMapCase::new(shape), intermediate), &device);
        }
    }
}

/// A row's bits do not depend on the rows beside it.
#[test]
fn a_batch_split_in_two_gives_the_same_bits() {
    let case =
        |rows| SwigluQuantizeCase::new(map((rows, 1, 1), ExpertLayout::Ragged, Routing::AllToOne), 256);
    let whole = case(37).problem();
    for device in devices() {
        let run = |first: usize, rows: usize| {
            let x = whole.x[first * 512..][..rows * 512].to_vec();
            let outputs = outputs(SwigluQuantizeProblem { x, ..case(rows).problem() }, &device);
            (outputs[0].values::<F8E4M3>(), outputs[1].values::<f32>())
        };
        let (all, front, back) = (run(0, 37), run(0, 14), run(14, 23));
        let bits = |codes: &[F8E4M3]| codes.iter().map(|code| code.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&all.0), bits(&[front.0, back.0].concat()));
        let lines = front.1.chunks(14).zip(back.1.chunks(23));
        assert_eq!(all.1, lines.flat_map(|(front, back)| [front, back].concat()).collect::<Vec<_>>());
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
    let spec = |layout| ExpertMapSpec::new(5, 2, 3).layout(layout);
    assert_eq!(spec(LAYOUTS[0]).segments(), Segments::Ragged { rows: 10 });
    assert_eq!(spec(LAYOUTS[1]).segments(), Segments::Ragged { rows: 48 });
    assert_eq!(spec(LAYOUTS[2]).segments(), Segments::Masked { max_rows: 9 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_batch(
        tokens in 1..40_usize, top_k in 1..5_usize, experts in 1..12_usize, pieces in 1..50_usize, layout in 0..3_usize,
        routing in 0..ROUTINGS.len(), weighted in any::<bool>(), power in any::<bool>(), seed in any::<u64>(),
    ) {
        let map = ExpertMapCase { seed, ..map((tokens, top_k, experts), LAYOUTS[layout], ROUTINGS[routing]) };
        let case = SwigluQuantizeCase::new(map, 8 * pieces);
        let case = SwigluQuantizeCase { weighted, rule: Rule::OWN[usize::from(power)], ..case };
        for device in seeded([seed]) {
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
