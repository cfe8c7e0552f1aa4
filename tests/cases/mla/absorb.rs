//! MLA's absorbed projections: exact on integers, else the bits of the tensor core's model, and within the bound.

use std::sync::Arc;

use check::case::{Case, attempt, memory_of, pass, pass_in};
use check::devices::{devices, seeded};
use check::memory::{Memory, Output};
use check::mla::absorb::{AbsorbCase, AbsorbProblem};
use check::mla::{KEY, LATENT, Values};
use deepseek_kernels::{Device, bf16};
use oracles::mla::{HeadColumns, Side};
use proptest::prelude::*;

const SIDES: [Side; 2] = [Side::Query, Side::Output];

fn magnitudes(side: Side, tokens: usize, heads: usize, seed: u64) -> AbsorbCase {
    AbsorbCase { values: Values::Magnitudes, seed, ..AbsorbCase::new(side, tokens, heads) }
}

/// `[tokens, heads, n]`, after every check.
fn run(problem: AbsorbProblem, device: &Device) -> Vec<f32> {
    let case = problem.case;
    let outputs = attempt(Arc::new(problem), device, memory_of(&case.data())).expect("right").outputs;
    result(&case, &outputs)
}

fn result(case: &AbsorbCase, outputs: &[Output]) -> Vec<f32> {
    let d = outputs[0].widened();
    match case.side {
        Side::Query => d.chunks(KEY).flat_map(|row| &row[..LATENT]).copied().collect(),
        Side::Output => d,
    }
}

/// Around the edges of tiles of 64 tokens.
#[test]
fn integers_are_exact_for_any_number_of_tokens() {
    for device in devices() {
        for side in SIDES {
            for tokens in [1, 2, 7, 8, 63, 64, 65, 127, 128, 129, 300] {
                pass(&AbsorbCase::new(side, tokens, 2), &device);
            }
        }
    }
}

/// GLM-5's heads, others whose values end within a tile or a box, and heads without a rotated part.
#[test]
fn heads_of_other_models() {
    let columns = |nope, rope, value| HeadColumns { nope, rope, value };
    for device in devices() {
        for columns in [columns(192, 64, 256), columns(64, 0, 8), columns(256, 8, 200), columns(128, 32, 136)] {
            for side in SIDES {
                pass(&AbsorbCase { columns, ..AbsorbCase::new(side, 67, 3) }, &device);
                pass(&AbsorbCase { columns, ..magnitudes(side, 5, 2, 7) }, &device);
            }
        }
    }
}

#[test]
fn integers_are_exact_for_any_number_of_heads() {
    for device in devices() {
        for side in SIDES {
            for heads in [1, 3, 16] {
                pass(&AbsorbCase::new(side, 5, heads), &device);
            }
            pass(&AbsorbCase::new(side, 3, 128), &device);
        }
    }
}

#[test]
fn random_values_follow_the_model_and_the_bound() {
    for device in devices() {
        for side in SIDES {
            for (tokens, heads) in [(70, 3), (1, 5)] {
                pass(&magnitudes(side, tokens, heads, 11), &device);
                let activations = Values::Activations;
                pass(&AbsorbCase { values: activations, ..magnitudes(side, tokens, heads, 11) }, &device);
            }
        }
    }
}

/// Adjacent rows, gaps of any size, another seed of the emulator: the same bits.
#[test]
fn the_layout_decides_nothing() {
    for device in seeded(1..4) {
        for side in SIDES {
            let case = magnitudes(side, 66, 2, 12);
            let plain = pass_in(&case, &device, Memory::Plain);
            for seed in 0..4 {
                assert!(pass_in(&case, &device, Memory::Poisoned(seed)) == plain, "{side:?}, {seed}");
            }
        }
    }
}

/// The bits of a row depend on it and W alone, not on the rows beside it.
#[test]
fn a_split_of_the_tokens_keeps_every_bit() {
    for device in devices() {
        for side in SIDES {
            let (tokens, heads) = (130, 2);
            let all = magnitudes(side, tokens, heads, 13).problem().expect("inputs");
            let got = run(all.clone(), &device);
            let (a_row, d_row) = (heads * all.case.a_columns(), heads * all.case.n());
            for (first, last) in [(0, 1), (1, 66), (66, 130)] {
                let a = all.a[first * a_row..last * a_row].to_vec();
                let case = AbsorbCase { tokens: last - first, ..all.case };
                let part = run(AbsorbProblem { case, a, ..all.clone() }, &device);
                assert!(part == got[first * d_row..last * d_row], "{side:?} {first}..{last}");
            }
        }
    }
}

/// One head with its own W: what stands in another head's W or row is not read.
#[test]
fn nan_and_infinity_stay_in_their_rows_heads_and_columns() {
    for device in devices() {
        for (side, at) in [(Side::Query, 5 * LATENT + 300), (Side::Output, (128 + 77) * LATENT + 9)] {
            let (tokens, heads) = (6, 3);
            let mut problem = AbsorbCase::new(side, tokens, heads).problem().expect("inputs");
            let (a_columns, n) = (problem.case.a_columns(), problem.case.n());
            problem.a[(2 * heads + 1) * a_columns + 40] = bf16::NAN;
            problem.a[(4 * heads) * a_columns + 3] = bf16::INFINITY;
            problem.w[2 * 256 * LATENT + at] = bf16::NAN;
            let got = run(problem, &device);
            let column = if side == Side::Query { 300 } else { 77 };
            for (i, x) in got.iter().enumerate() {
                let (row, head) = (i / n / heads, i / n % heads);
                let nan = (row, head) == (2, 1) || head == 2 && i % n == column;
                let special = nan || (row, head) == (4, 0);
                assert_eq!(!x.is_finite(), special, "{side:?} [{row}, {head}, {}]: {x}", i % n);
            }
        }
    }
}

/// The order is part of the contract: sums of 16, ascending.
#[test]
fn k_ascends() {
    for device in devices() {
        for side in SIDES {
            let mut problem = magnitudes(side, 1, 1, 14).problem().expect("inputs");
            let fill = |data: &mut [bf16], value| {
                data.iter_mut().filter(|x| !x.is_nan()).for_each(|x| *x = value);
            };
            fill(&mut problem.a, bf16::ZERO);
            fill(&mut problem.w, bf16::ONE);
            // 1 is lost beside 2^40, unless it comes after both.
            let big = bf16::from_f32(2.0_f32.powi(40));
            let first = |places: [usize; 3]| {
                let mut problem = problem.clone();
                for (place, x) in places.into_iter().zip([bf16::ONE, big, -big]) {
                    problem.a[place] = x;
                }
                run(problem, &device)[0]
            };
            assert_eq!(first([0, 16, 32]), 0.0);
            assert_eq!(first([100, 16, 80]), 1.0);
            assert_eq!(first([17, 18, 19]), 0.0, "in one sum");
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for side in SIDES {
            for (tokens, heads) in [(0, 3), (5, 0), (0, 0)] {
                let case = AbsorbCase::new(side, tokens, heads);
                assert!(result(&case, &pass(&case, &device)).is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_shape(tokens in 1..140_usize, heads in 1..4_usize, query in any::<bool>(), seed in any::<u64>()) {
        let case = magnitudes(if query { Side::Query } else { Side::Output }, tokens, heads, seed);
        for device in seeded([seed]) {
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
