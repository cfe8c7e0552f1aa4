//! MLA's absorbed projections: exact on integers, else the bits of the tensor core's model, and within the bound.

use check::devices::{devices, seeded};
use check::mla::absorb::{Absorption, LATENT, Oracle, same};
use deepseek_kernels::bf16;
use oracles::mla::Side;
use proptest::prelude::*;

const SIDES: [Side; 2] = [Side::Query, Side::Output];

/// Around the edges of tiles of 64 tokens.
#[test]
fn integers_are_exact_for_any_number_of_tokens() {
    for device in devices() {
        for side in SIDES {
            for tokens in [1, 2, 7, 8, 63, 64, 65, 127, 128, 129, 300] {
                Absorption::integers(side, tokens, 2).check(&device, Oracle::Exact);
            }
        }
    }
}

#[test]
fn integers_are_exact_for_any_number_of_heads() {
    for device in devices() {
        for side in SIDES {
            for heads in [1, 3, 16] {
                Absorption::integers(side, 5, heads).check(&device, Oracle::Exact);
            }
        }
        Absorption::integers(Side::Query, 3, 128).check(&device, Oracle::Exact);
        Absorption::integers(Side::Output, 3, 128).check(&device, Oracle::Exact);
    }
}

#[test]
fn random_values_follow_the_model_and_the_bound() {
    for device in devices() {
        for (side, tokens, heads) in
            [(Side::Query, 70, 3), (Side::Query, 1, 5), (Side::Output, 70, 3), (Side::Output, 1, 5)]
        {
            let case = Absorption::random(side, tokens, heads, 11);
            let got = case.run(&device);
            case.judge(Oracle::BitModel, &got);
            case.judge(Oracle::Bound, &got);
        }
    }
}

/// Adjacent rows, larger gaps, another seed of the emulator: the same bits.
#[test]
fn the_layout_decides_nothing() {
    for device in seeded(1..4) {
        for side in SIDES {
            let case = Absorption::random(side, 66, 2, 12);
            let got = case.run_with(&device, 0);
            case.judge(Oracle::BitModel, &got);
            for gap in [16, 24, 136] {
                assert!(got.iter().zip(case.run_with(&device, gap)).all(|(x, y)| same(*x, y)), "gap {gap}");
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
            let all = Absorption::random(side, tokens, heads, 13);
            let got = all.run(&device);
            let (a_row, d_row) = (heads * Absorption::a_columns(side), heads * all.product().n());
            for (first, last) in [(0, 1), (1, 66), (66, 130)] {
                let a = all.a[first * a_row..last * a_row].to_vec();
                let part = Absorption { a, w: all.w.clone(), tokens: last - first, ..all };
                assert!(part.run(&device) == got[first * d_row..last * d_row], "{side:?} {first}..{last}");
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
            let mut case = Absorption::integers(side, tokens, heads);
            case.a[(2 * heads + 1) * Absorption::a_columns(side) + 40] = bf16::NAN;
            case.a[(4 * heads) * Absorption::a_columns(side) + 3] = bf16::INFINITY;
            case.w[2 * 256 * LATENT + at] = bf16::NAN;
            let got = case.run(&device);
            case.judge(Oracle::BitModel, &got);
            let (n, column) = (case.product().n(), if side == Side::Query { 300 } else { 77 });
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
            let mut case = Absorption::integers(side, 1, 1);
            let fill = |data: &mut [bf16], value| {
                data.iter_mut().filter(|x| !x.is_nan()).for_each(|x| *x = value);
            };
            fill(&mut case.a, bf16::ZERO);
            fill(&mut case.w, bf16::ONE);
            // 1 is lost beside 2^40, unless it comes after both.
            let big = bf16::from_f32(2.0_f32.powi(40));
            let run = |places: [usize; 3]| {
                let mut a = case.a.clone();
                for (place, x) in places.into_iter().zip([bf16::ONE, big, -big]) {
                    a[place] = x;
                }
                let case = Absorption { a, w: case.w.clone(), ..case };
                let got = case.run(&device);
                case.judge(Oracle::BitModel, &got);
                got[0].to_f32()
            };
            assert_eq!(run([0, 16, 32]), 0.0);
            assert_eq!(run([100, 16, 80]), 1.0);
            assert_eq!(run([17, 18, 19]), 0.0, "in one sum");
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for side in SIDES {
            for (tokens, heads) in [(0, 3), (5, 0), (0, 0)] {
                let case = Absorption::integers(side, tokens, heads);
                assert!(case.run(&device).is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_shape(tokens in 1..140_usize, heads in 1..4_usize, gap in 0..6_usize, query in any::<bool>(), seed in 0..1000_u64) {
        let case = Absorption::random(if query { Side::Query } else { Side::Output }, tokens, heads, seed);
        for device in seeded([seed]) {
            case.judge(Oracle::BitModel, &case.run_with(&device, 8 * gap));
        }
    }
}
