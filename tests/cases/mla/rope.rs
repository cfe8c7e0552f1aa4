//! The rotation and its table: bit for bit what the reference gives, and near the exact one.

use check::devices::{devices, seeded};
use check::mla::rope::{ROPE, Rotation, Strides, values};
use deepseek_kernels::mla::{RopeTable, YarnRope};
use deepseek_kernels::{Device, bf16};
use proptest::prelude::*;

const PLACES: [(Strides, Strides); 4] = [
    (Strides::DENSE, Strides::DENSE),
    (Strides::QUERY, Strides::ABSORBED),
    (Strides { offset: 8, head: 72, token_gap: 24 }, Strides { offset: 16, head: 64, token_gap: 8 }),
    (Strides::ABSORBED, Strides { offset: 0, head: 192, token_gap: 512 }),
];

fn table(positions: usize) -> Vec<f32> {
    RopeTable::yarn(YarnRope::DEEPSEEK_V3).and_then(|table| table.cos_sin(positions)).expect("sensible")
}

#[test]
fn heads_in_any_place() {
    for device in devices() {
        let table = table(90);
        for (index, (from, to)) in PLACES.into_iter().enumerate() {
            for heads in [1, 3, 16] {
                let positions: Vec<i32> = (0..11).map(|t| (t * 29 + index as i32) % 90).collect();
                let x = values(positions.len() * heads * ROPE, index as u64);
                Rotation { heads, x: &x, positions: &positions, table: &table, from, to }.check(&device);
            }
        }
    }
}

#[test]
fn positions_that_are_not_in_the_table_give_zeros() {
    for device in devices() {
        let table = table(40);
        let x = values(3 * 2 * ROPE, 1);
        for bad in [i32::MIN, -1, 40, 41, i32::MAX] {
            let case = Rotation {
                heads: 2,
                x: &x,
                positions: &[39, bad, 0],
                table: &table,
                from: Strides::QUERY,
                to: Strides::ABSORBED,
            };
            case.check(&device);
            let out = case.run(&device);
            assert!(out[2 * ROPE..4 * ROPE].iter().all(|x| x.to_bits() == 0), "position {bad}");
            assert!(device.poll_error().is_err());
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for (tokens, heads, rows) in [(0, 2, 3), (3, 0, 3), (2, 1, 0)] {
            let (table, x) = (table(rows), values(tokens * heads * ROPE, 2));
            let positions = vec![0; tokens];
            let (from, to) = (Strides::DENSE, Strides::DENSE);
            Rotation { heads, x: &x, positions: &positions, table: &table, from, to }.check(&device);
        }
    }
}

fn turn(device: &Device, x: &[bf16], table: &[f32]) -> Vec<bf16> {
    let (from, to) = (Strides::DENSE, Strides::DENSE);
    let case = Rotation { heads: 1, x, positions: &[0], table, from, to };
    case.check(device);
    case.run(device)
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
    let x: Vec<bf16> = (1..=ROPE).map(|i| bf16::from_f32(i as f32)).collect();
    let mut want = x.clone();
    want[10..12].copy_from_slice(&[-x[11], x[10]]);
    for device in devices() {
        assert_eq!(turn(&device, &x, &angles), want);
    }
}

/// What it is for: the score of a query and a key depends on how far apart they are, not on where.
#[test]
fn scores_depend_on_the_distance() {
    let table = table(200);
    let (q, k) = (values(ROPE, 3), values(ROPE, 4));
    let score =
        |q: &[bf16], k: &[bf16]| -> f64 { q.iter().zip(k).map(|(q, k)| q.to_f64() * k.to_f64()).sum() };
    let size = |x: &[bf16]| score(x, x).sqrt();
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
        tokens in 1..20_usize, heads in 1..9_usize, rows in 1..60_usize, seed in 0..1_000_u64,
        place in 0..PLACES.len(), strange in any::<bool>(),
    ) {
        let table = table(rows);
        let x = values(tokens * heads * ROPE, seed);
        let beyond = if strange { 2 } else { 0 };
        let position = |t: usize| ((t * 31 + seed as usize) % (rows + beyond)) as i32;
        let positions: Vec<i32> = (0..tokens).map(position).collect();
        let (from, to) = PLACES[place];
        for device in seeded([seed]) {
            Rotation { heads, x: &x, positions: &positions, table: &table, from, to }.check(&device);
        }
    }
}
