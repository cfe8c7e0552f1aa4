//! Merged states of attention: bit for bit what the reference gives, and within the error bound of f64.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass};
use check::devices::{devices, seeded};
use check::memory::{Memory, Output};
use check::mla::LATENT;
use check::mla::merge_states::{MergeStatesCase, MergeStatesProblem};
use deepseek_kernels::mla::LseOrder;
use deepseek_kernels::table::gemm::OutputType;
use deepseek_kernels::{Device, bf16};
use oracles::log1p_f32;
use proptest::prelude::*;
use rayon::prelude::*;

/// Logarithms within `spread` of 0, with both types of o.
fn both(tokens: usize, heads: usize, spread: f32) -> [MergeStatesCase; 2] {
    [OutputType::Bf16, OutputType::F32].map(|output| MergeStatesCase {
        output,
        spread: Some(spread),
        ..MergeStatesCase::new(tokens, heads)
    })
}

fn drawn(tokens: usize, heads: usize, spread: f32) -> [MergeStatesProblem; 2] {
    both(tokens, heads, spread).map(|case| case.problem().expect("inputs"))
}

/// What it wrote, after every check: o and lse.
fn run(problem: &MergeStatesProblem, device: &Device) -> [Output; 2] {
    let ran = attempt(Arc::new(problem.clone()), device, memory_of("merge_states"));
    let outputs = ran.unwrap_or_else(|error| panic!("{error:#}\n{:?}", problem.case)).outputs;
    outputs.try_into().expect("o and lse")
}

/// As the type of o holds it.
fn bytes(problem: &MergeStatesProblem, part: usize, row: usize) -> Vec<u8> {
    let o = &problem.parts[part].o[row * LATENT..][..LATENT];
    match problem.case.output {
        OutputType::Bf16 => o.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        OutputType::F32 => o.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

#[test]
fn any_number_of_rows() {
    for device in devices() {
        for (tokens, heads) in [(1, 1), (1, 3), (2, 2), (5, 1), (3, 16), (1, 128), (67, 2)] {
            both(tokens, heads, 8.0).iter().for_each(|case| drop(pass(case, &device)));
            pass(&MergeStatesCase::new(tokens, heads), &device);
        }
    }
}

/// The values of a head, other widths, and lse in other orders.
#[test]
fn any_number_of_columns_in_every_order() {
    let sequences = LseOrder::SequencesHeadsTokens { q_tokens: 4 };
    for device in devices() {
        for columns in [8, 128, 192, 520] {
            for lse_order in [LseOrder::TokensHeads, LseOrder::HeadsTokens, sequences] {
                let case = MergeStatesCase { columns, lse_order, ..MergeStatesCase::new(24, 5) };
                pass(&case, &device);
                pass(&MergeStatesCase { output: OutputType::F32, ..case }, &device);
            }
        }
    }
}

/// From equal weights to one that vanishes; logarithms far from 0, and next to it.
#[test]
fn any_distance_of_the_parts() {
    let distances = [0.0, 1e-7, 0.1, 0.69, 0.7, 3.0, 17.0, 87.0, 103.9, 104.1, 1e4, 3e38];
    for device in devices() {
        for base in [0.0, 1e-6, -0.4, 30.0, -1000.0, 1e30] {
            for mut problem in drawn(distances.len(), 1, 1.0) {
                problem.parts[0].lse.fill(base);
                problem.parts[1].lse = distances.iter().map(|distance| base - distance).collect();
                run(&problem, &device);
                run(&problem.swapped(), &device);
            }
        }
    }
}

/// The judge compares with f64 wherever both parts are finite, as here everywhere.
#[test]
fn results_are_within_the_bound_of_f64() {
    for device in devices() {
        for spread in [0.01, 1.0, 10.0, 60.0] {
            both(40, 2, spread).iter().for_each(|case| drop(pass(case, &device)));
        }
    }
}

#[test]
fn the_parts_may_change_places() {
    for device in devices() {
        for mut problem in drawn(50, 2, 5.0) {
            problem.parts[1].lse[7] = problem.parts[0].lse[7];
            problem.parts[0].empty_row(9, f32::NEG_INFINITY);
            assert!(run(&problem, &device) == run(&problem.swapped(), &device));
        }
    }
}

/// Every combination of empty parts: the other one as it is, NaN and -0 included; of two, 0 and -Inf.
#[test]
fn a_part_without_keys_changes_nothing() {
    for device in devices() {
        for mut problem in drawn(6, 1, 4.0) {
            for (part, row) in [(0, 0), (1, 1), (0, 2), (1, 2), (1, 3), (1, 4)] {
                problem.parts[part].empty_row(row, f32::NEG_INFINITY);
            }
            // Whatever the only part holds.
            problem.parts[0].lse[3] = f32::NAN;
            let special = [f32::NAN, f32::INFINITY, -0.0];
            problem.parts[0].o[4 * LATENT..][..3].copy_from_slice(&special);
            let [o, lse] = run(&problem, &device);
            let (width, lse) = (o.bytes.len() / 6, lse.widened());
            let row = |row: usize| o.bytes[row * width..][..width].to_vec();
            assert_eq!((row(0), lse[0]), (bytes(&problem, 1, 0), problem.parts[1].lse[0]));
            assert_eq!((row(1), lse[1]), (bytes(&problem, 0, 1), problem.parts[0].lse[1]));
            assert_eq!((row(2), lse[2]), (vec![0; width], f32::NEG_INFINITY));
            assert_eq!(row(4), bytes(&problem, 0, 4));
        }
    }
}

/// As one asks: the same as -Inf, or the infinity that it is.
#[test]
fn positive_infinity_is_empty_if_the_option_says_so() {
    for device in devices() {
        for mut problem in drawn(4, 1, 4.0) {
            problem.parts[0].empty_row(0, f32::INFINITY);
            problem.parts[1].empty_row(1, f32::INFINITY);
            problem.parts[0].empty_row(2, f32::INFINITY);
            problem.parts[1].empty_row(2, f32::NEG_INFINITY);
            problem.case.infinity_is_empty = true;
            let [o, lse] = run(&problem, &device);
            assert!(o.widened().iter().all(|x| !x.is_nan()) && lse.widened()[2] == f32::NEG_INFINITY);
            problem.case.infinity_is_empty = false;
            assert_eq!(run(&problem, &device)[1].widened()[..3], [f32::INFINITY; 3]);
        }
    }
}

#[test]
fn nan_stays_in_its_row() {
    for device in devices() {
        for mut problem in drawn(5, 1, 4.0) {
            problem.parts[0].lse[1] = f32::NAN;
            problem.parts[1].lse[2] = f32::NAN;
            problem.parts[1].o[3 * LATENT + 5] = f32::NAN;
            let [o, _] = run(&problem, &device);
            for (i, x) in o.widened().iter().enumerate() {
                let (row, column) = (i / LATENT, i % LATENT);
                let nan = row == 1 || row == 2 || (row, column) == (3, 5);
                assert_eq!(x.is_nan(), nan, "[{row}, {column}]");
            }
        }
    }
}

/// Merging with a state of one's own keys again leaves o, and log 2 more in the lse.
#[test]
fn a_state_merged_with_itself() {
    for device in devices() {
        let [_, mut problem] = drawn(3, 3, 3.0);
        problem.parts[1] = problem.parts[0].clone();
        let [o, lse] = run(&problem, &device);
        assert!(o.widened() == problem.parts[0].o);
        for (got, lse) in lse.widened().iter().zip(&problem.parts[0].lse) {
            assert_eq!(*got, lse + std::f32::consts::LN_2);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for (tokens, heads) in [(0, 0), (0, 2), (3, 0)] {
            pass(&MergeStatesCase::new(tokens, heads), &device);
        }
    }
}

/// Every 61st float of [0, 1], and both ends of each branch.
#[test]
fn log1p_is_within_its_bound() {
    let ulps = |x: f32| {
        let (got, exact) = (log1p_f32(x), f64::from(x).ln_1p());
        let ulp = f64::from((exact as f32).next_up() - exact as f32);
        (f64::from(got) - exact).abs() / ulp
    };
    let one = 1.0_f32.to_bits();
    let worst = (0..one / 61).into_par_iter().map(|i| ulps(f32::from_bits(61 * i))).reduce(|| 0.0, f64::max);
    let half = 0.5_f32;
    let edges = [f32::MIN_POSITIVE, half.next_down(), half, half.next_up(), 1.0_f32.next_down(), 1.0];
    let worst = edges.into_iter().map(ulps).fold(worst, f64::max);
    println!("log1p is off by {worst:.3} ulp at most");
    assert!(worst <= 1.0, "{worst} ulp");
    assert!(log1p_f32(0.0).to_bits() == 0 && log1p_f32(f32::NAN).is_nan());
    assert_eq!(log1p_f32(1.0), std::f32::consts::LN_2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_states(
        tokens in 1..12_usize, heads in 1..5_usize, spread in 0.0..120.0_f32, seed in 0..1000_u64, wide in any::<bool>(),
        infinity_is_empty in any::<bool>(), holes in proptest::collection::vec((0..2_usize, 0..48_usize, 0..4_usize), 0..6),
    ) {
        let case = both(tokens, heads, spread)[usize::from(wide)];
        let mut problem = MergeStatesCase { infinity_is_empty, seed, ..case }.problem().expect("inputs");
        for (part, row, kind) in holes {
            let lse = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0][kind];
            problem.parts[part].empty_row(row % (tokens * heads), lse);
        }
        let problem = Arc::new(problem);
        for device in seeded([seed]) {
            let ran = attempt(problem.clone(), &device, Memory::Poisoned(seed));
            prop_assert!(ran.is_ok(), "{:#}", ran.err().expect("an error"));
        }
    }
}
