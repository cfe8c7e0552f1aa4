//! wgmma: fragments, descriptors, every width, and the tensor core's arithmetic bit for bit.

use std::array::from_fn;

use check::devices::{FEW_MULTIPROCESSORS, devices, emulators};
use check::probes::catalogue::not_finite;
use check::probes::convert::same;
use check::probes::wgmma::{Case, DENSE, Operands, ROW, STEP, Slip};
use check::probes::wgmma_inputs::{CLASSES, integer_case, random_case, random_row, rng, uniform_case};
use check::probes::{ask, assert_clean, machines};
use deepseek_kernels::probe::{fused_dot_bf16, fused_dot_e4m3};
use deepseek_kernels::{Device, EmulatorOptions};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use Operands::{Bf16, Bf16Mn, Bf16RsMn, E4m3};

#[test]
fn the_tensor_core_is_the_models() {
    ask(&devices(), "wgmma/");
}

fn check(case: &Case, device: &Device) {
    assert_clean(device, case.check(device));
}

fn run(case: &Case, device: &Device) -> Vec<f32> {
    case.run(device).unwrap_or_else(|error| panic!("{}: {error}", device.name()))
}

#[test]
fn descriptors_advance_along_k_inside_the_swizzled_row() {
    for device in machines() {
        for operands in [E4m3, Bf16, Bf16Mn(DENSE), Bf16RsMn] {
            let case = integer_case(operands, 128, 1, 3);
            for first_step in 0..4 {
                check(&Case { first_step, steps: 1, ..case.clone() }, &device);
            }
        }
    }
}

#[test]
fn later_groups_continue_the_sum() {
    for device in machines() {
        for operands in [E4m3, Bf16, Bf16Mn(DENSE), Bf16RsMn] {
            check(&Case { repeats: 5, ..integer_case(operands, 16, 1, 4) }, &device);
        }
    }
}

#[test]
fn chunks_of_columns_may_lie_apart() {
    for device in machines() {
        for (n, chunk_bytes) in [(128, 9 * 1024), (128, 16 * 1024), (128, 30 * 1024), (256, 10 * 1024)] {
            check(&integer_case(Bf16Mn(chunk_bytes), n, 2, 5), &device);
        }
        // One chunk: the distance is not used.
        for chunk_bytes in [0, 1024, 200 * 1024] {
            check(&integer_case(Bf16Mn(chunk_bytes), 64, 1, 6), &device);
        }
    }
}

#[test]
fn a_wrong_descriptor_of_an_n_major_b_is_a_fault() {
    let case = integer_case(Bf16Mn(DENSE), 128, 1, 7);
    for (slip, expected) in [
        (Slip::Major, "leading offset 0"),
        (Slip::Swizzle, "swizzle of 0 bytes, not 128"),
        (Slip::NextAtom, "which nothing has written"),
        (Slip::FarAway, "outside the CTA's shared memory"),
    ] {
        for device in emulators((1..4).map(|seed| EmulatorOptions { seed, ..FEW_MULTIPROCESSORS })) {
            let fault = case.with_probe(slip, |probe| probe.run(&device)).expect_err("a fault");
            assert!(fault.to_string().contains(expected), "{slip:?}: {fault}");
        }
    }
}

// ---------------------------------------------------------------------------------------- arithmetic

#[test]
fn the_order_inside_a_step_and_the_side_of_an_operand_do_not_matter() {
    for device in devices() {
        for operands in [E4m3, Bf16] {
            let case = Case { keep: false, ..random_case(operands, 1, 4, 25) };
            let element_bytes = ROW / operands.row_elements();
            let mut order: Vec<usize> = (0..STEP / element_bytes).collect();
            order.shuffle(&mut rng(26));
            let permuted = |rows: &[u8]| {
                let step = |step: &[u8]| {
                    let elements = order.iter().map(|&i| &step[i * element_bytes..][..element_bytes]);
                    elements.flatten().copied().collect::<Vec<_>>()
                };
                rows.chunks(STEP).flat_map(step).collect::<Vec<_>>()
            };
            let straight = run(&case, &device);
            let other = run(&Case { a: permuted(&case.a), b: permuted(&case.b), ..case.clone() }, &device);
            assert!(straight.iter().zip(&other).all(|(x, y)| same(*x, *y)), "{} {operands:?}", device.name());

            let swapped = Case { n: 64, a: case.b[..64 * ROW].to_vec(), b: case.a.clone(), ..case.clone() };
            let swapped = run(&Case { d: vec![0.0; 64 * 64], ..swapped }, &device);
            for (row, column) in (0..64).flat_map(|row| (0..64).map(move |column| (row, column))) {
                let (x, y) = (straight[row * case.n + column], swapped[column * 64 + row]);
                assert!(same(x, y), "{} {operands:?} [{row}, {column}]: {x:e}, swapped {y:e}", device.name());
            }
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows_and_columns() {
    for device in devices() {
        for operands in [E4m3, Bf16] {
            for (index, x) in run(&not_finite(operands), &device).iter().enumerate() {
                let (row, column) = (index / 64, index % 64);
                let nan = row == 5 || column == 9 || (row, column) == (17, 3);
                assert_eq!(x.is_nan(), nan, "{} {operands:?} [{row}, {column}]: {x}", device.name());
            }
        }
        // BF16 has infinities: alone, of both signs, times zero.
        let with = |a: [f32; 2], b: [f32; 2]| run(&uniform_case(Bf16, &a, &b), &device)[0];
        assert_eq!(with([f32::INFINITY, 1.0], [2.0, 3.0]), f32::INFINITY);
        assert_eq!(with([f32::INFINITY, 1.0], [-2.0, 3.0]), f32::NEG_INFINITY);
        assert!(with([f32::INFINITY, f32::INFINITY], [1.0, -1.0]).is_nan());
        assert!(with([f32::INFINITY, 1.0], [0.0, 3.0]).is_nan());
    }
}

/// The emulator's definition of a fused sum, apart from the wgmma around it and from its faster path.
#[test]
fn the_emulators_fused_sum_is_the_references() {
    const BLOCKS: u64 = 1_000_000;
    const ROWS: usize = 2048;
    for operands in [E4m3, Bf16] {
        let mut row_rng = rng(28);
        let mut rows = |is_b| {
            (0..ROWS).map(|row| random_row(operands, row % CLASSES, is_b, &mut row_rng)).collect::<Vec<_>>()
        };
        let (a, b) = (rows(false), rows(true));
        (0..BLOCKS / 1000).into_par_iter().for_each(|chunk| {
            let rng = &mut rng(chunk);
            for _ in 0..1000 {
                let mut step = |rows: &[Vec<u8>]| {
                    let from = STEP * rng.random_range(0..ROW / STEP);
                    rows[rng.random_range(0..ROWS)][from..from + STEP].to_vec()
                };
                let (a, b) = (step(&a), step(&b));
                let c = match rng.random_range(0..4) {
                    0 => f32::from_bits(rng.next_u32()),
                    1 => -operands.fused_dot(&a, &b, 0.0),
                    _ => 16.0 * rng.sample::<f32, _>(StandardNormal),
                };
                let wide = |bytes: &[u8]| from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
                let narrow = |bytes: &[u8]| from_fn(|i| bytes[i]);
                let got = match operands {
                    E4m3 => fused_dot_e4m3(c, &narrow(&a), &narrow(&b)),
                    Bf16 | Bf16Mn(_) | Bf16RsMn => fused_dot_bf16(c, &wide(&a), &wide(&b)),
                };
                let expected = operands.fused_dot(&a, &b, c);
                assert!(
                    same(got, expected),
                    "{operands:?}: {got:e}, expected {expected:e}; c {c:e} a {a:02x?} b {b:02x?}"
                );
            }
        });
    }
}
