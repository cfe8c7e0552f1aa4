//! The rotation and its table: bit for bit what the reference gives, and near the exact one.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{devices, seeded};
use check::memory::{Memory, Output};
use check::mla::rope::{Columns, RopeCase, RopeProblem};
use check::mla::{ROPE, Values};
use deepseek_kernels::mla::{RopePairs, RopeTable, YarnRope};
use deepseek_kernels::{Device, bf16};
use proptest::prelude::*;

const PLACES: [(Columns, Columns); 4] = [
    (Columns::ALL, Columns::ALL),
    (Columns::QUERY, Columns::ABSORBED),
    (Columns { first: 8, of: 72 }, Columns { first: 0, of: 64 }),
    (Columns::ABSORBED, Columns { first: 0, of: 192 }),
];

fn run(problem: RopeProblem, device: &Device) -> Vec<Output> {
    attempt(Arc::new(problem), device, memory_of("rope")).expect("right").outputs
}

#[test]
fn heads_in_any_place() {
    for device in devices() {
        for (index, (from, to)) in PLACES.into_iter().enumerate() {
            for heads in [1, 3, 16] {
                for values in [Values::Magnitudes, Values::Activations] {
                    let seed = index as u64;
                    pass(&RopeCase { from, to, values, seed, ..RopeCase::new(11, heads, 90) }, &device);
                }
            }
        }
    }
}

/// Pieces, words and halves: every way in which a thread takes its pairs.
#[test]
fn any_even_number_of_columns() {
    for device in devices() {
        for columns in [2, 4, 6, 8, 24, 36, 64, 80, 90, 96, 128, 192] {
            let neighbours = RopeCase::new(7, 3, 90).with_columns(columns, RopePairs::Neighbours);
            pass(&neighbours, &device);
            pass(&RopeCase { from: Columns { first: 8, of: columns + 14 }, heads: 1, ..neighbours }, &device);
            if columns % 4 == 0 {
                pass(&RopeCase { pairs: RopePairs::Halves, ..neighbours }, &device);
            }
        }
        // The last columns of a query again.
        pass(&RopeCase { pairs: RopePairs::Halves, ..RopeCase::new(5, 3, 90) }, &device);
    }
}

/// Halves are neighbours in another order of the columns, bit for bit.
#[test]
fn halves_are_neighbours_that_were_taken_apart() {
    for device in devices() {
        let neighbours = RopeCase::new(3, 2, 40).with_columns(64, RopePairs::Neighbours);
        let problem = neighbours.problem().expect("inputs");
        let apart = |x: &[f32]| -> Vec<f32> {
            let halves = |head: &[f32]| [0, 1].map(|i| head.iter().copied().skip(i).step_by(2).collect::<Vec<_>>()).concat();
            x.chunks(64).flat_map(halves).collect()
        };
        let wide: Vec<f32> = problem.x.iter().map(|x| x.to_f32()).collect();
        let halves = RopeProblem {
            case: RopeCase { pairs: RopePairs::Halves, ..neighbours },
            x: apart(&wide).into_iter().map(bf16::from_f32).collect(),
            ..problem.clone()
        };
        let (neighbours, halves) = (run(problem, &device), run(halves, &device));
        assert_eq!(apart(&neighbours[0].widened()), halves[0].widened());
    }
}

#[test]
fn positions_that_are_not_in_the_table_give_zeros() {
    for device in devices() {
        for bad in [i32::MIN, -1, 40, 41, i32::MAX] {
            let case = RopeCase { to: Columns::ALL, ..RopeCase::new(3, 2, 40) };
            let problem = case.problem().expect("inputs");
            let out = run(RopeProblem { positions: vec![39, bad, 0], ..problem }, &device);
            let token = 2 * 2 * ROPE;
            assert!(out[0].bytes[token..2 * token].iter().all(|&byte| byte == 0), "position {bad}");
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for (tokens, heads, positions) in [(0, 2, 3), (3, 0, 3), (2, 1, 0)] {
            pass(&RopeCase::new(tokens, heads, positions), &device);
        }
    }
}

/// One head at the only position of a table.
fn turn(device: &Device, x: &[bf16], angles: &[f32]) -> Vec<f32> {
    let case = RopeCase { from: Columns::ALL, to: Columns::ALL, ..RopeCase::new(1, 1, 1) };
    let problem = RopeProblem { case, x: x.to_vec(), positions: vec![0], table: angles.to_vec() };
    run(problem, device)[0].widened()
}

/// Products that FP32 cannot hold, taken from each other: an fma would leave a rounding error, rounded products leave 0.
#[test]
fn products_are_rounded_before_they_are_added() {
    let angles = [std::f32::consts::FRAC_1_SQRT_2; ROPE];
    let alike = [bf16::from_f32(1.007_812_5); ROPE];
    let mut opposed = alike;
    opposed.iter_mut().step_by(2).for_each(|x| *x = -*x);
    for device in devices() {
        let out = turn(&device, &alike, &angles);
        assert!(out.iter().step_by(2).all(|x| x.to_bits() == 0), "{out:?}");
        let out = turn(&device, &opposed, &angles);
        assert!(out.iter().skip(1).step_by(2).all(|x| x.to_bits() == 0), "{out:?}");
    }
}

/// A quarter of a turn, exactly: (x, y) becomes (-y, x), neighbours with neighbours, and nobody else's.
#[test]
fn a_quarter_turn_of_neighbours() {
    let mut angles = [1.0, 0.0].repeat(32);
    angles[2 * 5..][..2].copy_from_slice(&[0.0, 1.0]);
    let x: Vec<f32> = (1..=ROPE).map(|i| i as f32).collect();
    let mut want = x.clone();
    want[10..12].copy_from_slice(&[-x[11], x[10]]);
    let x: Vec<bf16> = x.into_iter().map(bf16::from_f32).collect();
    for device in devices() {
        assert_eq!(turn(&device, &x, &angles), want);
    }
}

/// What it is for: the score of a query and a key depends on how far apart they are, not on where.
#[test]
fn scores_depend_on_the_distance() {
    let table =
        RopeTable::yarn(YarnRope::DEEPSEEK_V3).and_then(|table| table.cos_sin(200)).expect("sensible");
    let [q, k] = [3, 4].map(|seed| Values::Magnitudes.draw((1, ROPE), seed));
    let [q, k] = [q, k].map(|x| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>());
    let score =
        |q: &[f32], k: &[f32]| -> f64 { q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum() };
    let size = |x: &[bf16]| x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt();
    // Each rotated vector is off by half a unit of BF16, each angle by half a unit of FP32.
    let bound = size(&q) * size(&k) * 2.0 * (2.0_f64.powi(-9) * 1.01 + 200.0 * 2.0_f64.powi(-24));
    for device in devices() {
        let at = |x: &[bf16], position: usize| turn(&device, x, &table[position * ROPE..][..ROPE]);
        for distance in [0, 1, 7, 50] {
            let first = score(&at(&q, distance), &at(&k, 0));
            let second = score(&at(&q, distance + 149), &at(&k, 149));
            assert!((first - second).abs() <= 2.0 * bound, "distance {distance}: {first} and {second}");
        }
        let (near, far) = (score(&at(&q, 0), &at(&k, 0)), score(&at(&q, 50), &at(&k, 0)));
        assert!((near - far).abs() > 4.0 * bound, "the distance counts: {near} and {far}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape(
        tokens in 1..20_usize, heads in 1..9_usize, positions in 1..60_usize, seed in any::<u64>(),
        place in 0..PLACES.len(), strange in any::<bool>(),
    ) {
        let (from, to) = PLACES[place];
        let case = RopeCase { from, to, seed, ..RopeCase::new(tokens, heads, positions) };
        for device in seeded([seed]) {
            if strange {
                let mut problem = case.problem().expect("inputs");
                problem.positions[seed as usize % tokens] += 2;
                run(problem, &device);
            } else {
                pass_in(&case, &device, Memory::Poisoned(seed));
            }
        }
    }
}

const TORCH: &str = include_str!("../../goldens/rope.txt");

/// Of every base that a model has.
#[test]
fn frequencies_are_those_of_torch() {
    for line in TORCH.lines() {
        let mut words = line.split(' ');
        let theta: f64 = words.next().and_then(|word| word.parse().ok()).expect("a base");
        let table = RopeTable::plain(theta).expect("sensible");
        for (pair, word) in words.enumerate() {
            assert_eq!(format!("{:08x}", table.frequencies()[pair].to_bits()), word, "pair {pair} of {theta}");
        }
    }
}

const TORCH_TURNED: &str = include_str!("../../goldens/rotate.txt");

/// Halves as Hugging Face rotates them, neighbours as DeepSeek does, bit for bit.
#[test]
fn turned_heads_are_those_of_torch() {
    for device in devices() {
        for line in TORCH_TURNED.lines() {
            let mut words = line.splitn(3, ' ');
            let mut next = || words.next().expect("a word");
            let pairs = if next() == "halves" { RopePairs::Halves } else { RopePairs::Neighbours };
            let columns = next().parse().expect("a number");
            let bits = |field: &str| -> Vec<u32> {
                field.split_whitespace().map(|word| u32::from_str_radix(word, 16).expect("bits")).collect()
            };
            let [x, table, turned] = next().split('|').map(bits).collect::<Vec<_>>().try_into().expect("three");
            let problem = RopeProblem {
                case: RopeCase::new(3, 2, 3).with_columns(columns, pairs),
                x: x.into_iter().map(|bits| bf16::from_bits(bits as u16)).collect(),
                positions: vec![0, 1, 2],
                table: table.into_iter().map(f32::from_bits).collect(),
            };
            let bytes = turned.into_iter().flat_map(|bits| (bits as u16).to_le_bytes());
            assert_eq!(run(problem, &device)[0].bytes, bytes.collect::<Vec<_>>(), "{pairs:?} of {columns}");
        }
    }
}
