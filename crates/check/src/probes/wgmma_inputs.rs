//! Operands for [`Case`]s: exact ones, random ones of many kinds, and one row everywhere.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::StandardNormal;

use super::wgmma::{Case, Operands};
use Operands::{Bf16, Bf16Mn, Bf16RsMn, E4m3};
use oracles::codec::{decode_bf16, decode_e4m3};

/// The same numbers for the same seed.
pub fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn integers(rng: &mut Xoshiro256PlusPlus, count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(|_| rng.random_range(-8..=8) as f32)
}

/// Small integers, so that every sum is exact: only places can go wrong.
pub fn integer_case(operands: Operands, n: usize, grid: usize, seed: u64) -> Case {
    let rng = &mut rng(seed);
    let elements = operands.row_elements();
    let a = operands.encode(integers(rng, grid * 64 * elements));
    let b = operands.encode(integers(rng, grid * n * elements));
    let d = integers(rng, grid * 64 * n).collect();
    Case { operands, n, grid, a, b, d, keep: true, first_step: 0, steps: 4, repeats: 1 }
}

/// Kinds of rows of an operand.
pub const CLASSES: usize = 8;

/// A row of one of [`CLASSES`] kinds, of A or of B.
pub fn random_row(operands: Operands, class: usize, is_b: bool, rng: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let count = operands.row_elements();
    let mut values = vec![0.0_f32; count];
    match class {
        0 => values.fill_with(|| any_finite(operands, rng)),
        1 => values.fill_with(|| rng.sample::<f32, _>(StandardNormal)),
        2 => values.fill_with(|| any_subnormal(operands, rng)),
        3 => values.fill_with(|| 448.0 * rng.random_range(-1.0..1.0_f32).powi(9)),
        // Neighbours cancel between A and B, but for the last ones of a step.
        4 => {
            for (i, pair) in values.chunks_mut(2).enumerate() {
                let x = any_finite(operands, rng);
                let last = i % 8 == 7;
                pair.copy_from_slice(&[x, if is_b && !last { -x } else { x }]);
            }
        }
        // One large element among small ones.
        5 => {
            values.fill_with(|| any_subnormal(operands, rng));
            for step in values.chunks_mut(count / 4) {
                let place = rng.random_range(0..step.len());
                step[place] = 1.5 * 2.0_f32.powi(rng.random_range(0..8));
            }
        }
        6 => values.fill_with(|| if rng.random_ratio(1, 8) { any_finite(operands, rng) } else { 0.0 }),
        _ => values.fill_with(|| rng.random_range(0.5..1.5)),
    }
    operands.encode(values)
}

fn any_finite(operands: Operands, rng: &mut Xoshiro256PlusPlus) -> f32 {
    loop {
        let bits = rng.next_u32();
        let x = match operands {
            E4m3 => decode_e4m3(bits as u8),
            Bf16 | Bf16Mn(_) | Bf16RsMn => decode_bf16(bits as u16),
        };
        if x.is_finite() {
            return x;
        }
    }
}

/// Of the operands' type, of either sign; zeros among them.
pub fn any_subnormal(operands: Operands, rng: &mut Xoshiro256PlusPlus) -> f32 {
    let bits = rng.next_u32();
    match operands {
        E4m3 => decode_e4m3(bits as u8 & 0x87),
        Bf16 | Bf16Mn(_) | Bf16RsMn => decode_bf16(bits as u16 & 0x807f),
    }
}

/// An accumulator for element `index`: zeros, of the size of the sum, far larger, far smaller, subnormal,
/// cancelling the sum, any number.
fn random_d(case: &Case, index: usize, rng: &mut Xoshiro256PlusPlus) -> f32 {
    let normal: f32 = rng.sample(StandardNormal);
    let sum = || case.sum(index, 0.0);
    match rng.random_range(0..10) {
        0 => 0.0,
        1 => -0.0,
        2 => normal * 2.0_f32.powi(rng.random_range(10..40)),
        3 => normal * 2.0_f32.powi(rng.random_range(-40..-10)),
        4 => f32::from_bits(rng.next_u32() & 0x807f_ffff),
        5 => -sum(),
        6 => -sum() * (1.0 + normal / 1000.0),
        7 => loop {
            let x = f32::from_bits(rng.next_u32());
            if x.is_finite() {
                break x;
            }
        },
        _ => 16.0 * normal,
    }
}

/// Blocks of every pair of classes, on every kind of accumulator.
pub fn random_case(operands: Operands, grid: usize, steps: usize, seed: u64) -> Case {
    const N: usize = 256;
    let rng = &mut rng(seed);
    let mut rows = |count, is_b| {
        (0..count).flat_map(|row| random_row(operands, row % CLASSES, is_b, rng)).collect::<Vec<_>>()
    };
    let (a, b) = (rows(grid * 64, false), rows(grid * N, true));
    let mut case =
        Case { operands, n: N, grid, a, b, d: Vec::new(), keep: true, first_step: 0, steps, repeats: 1 };
    case.d = (0..grid * 64 * N).map(|index| random_d(&case, index, rng)).collect();
    case
}

/// One 64 x 8 tile with the same row everywhere in A and in B.
pub fn uniform_case(operands: Operands, a: &[f32], b: &[f32]) -> Case {
    let row = |values: &[f32], rows: usize| {
        let padding = std::iter::repeat(0.0);
        operands.encode(values.iter().copied().chain(padding).take(operands.row_elements())).repeat(rows)
    };
    let d = vec![0.0; 64 * 8];
    Case {
        operands,
        n: 8,
        grid: 1,
        a: row(a, 64),
        b: row(b, 8),
        d,
        keep: false,
        first_step: 0,
        steps: 1,
        repeats: 1,
    }
}
