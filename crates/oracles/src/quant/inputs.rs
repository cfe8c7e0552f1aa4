//! Rows that make a quantiser show what it does.

use half::bf16;

use crate::BLOCK;
use crate::random::{Seed, Stream};
use rand::RngExt;
use rayon::prelude::*;

/// Rows `[m, k]` for a quantiser whose amax is, in turn: 0 (of both signs), the smallest BF16, 1e-30,
/// 2^-126, the floor 1e-4, 448, 450, the largest BF16, Inf, NaN, Inf and NaN among large values, and that
/// of normal data.
///
/// The special value is the block's largest and sits at a random place of every block; the rest is smaller.
pub fn quantizer_rows(m: usize, k: usize, seed: u64) -> Vec<bf16> {
    const AMAX: [f32; 12] = [
        0.0,
        9.2e-41,
        1e-30,
        f32::MIN_POSITIVE,
        1e-4,
        448.0,
        450.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        -448.0,
        3.0,
    ];
    let largest = |amax: f32| if amax == f32::MAX { bf16::MAX } else { bf16::from_f32(amax) };
    let seed = Seed(seed);
    let fill = |(index, row): (usize, &mut [bf16])| {
        let mut rng = seed.rng(Stream::A, index as u64);
        let amax = AMAX[index % AMAX.len()];
        let size = if amax.is_finite() { largest(amax).to_f32().abs() } else { 1e3 };
        for block in row.chunks_mut(BLOCK) {
            block.fill_with(|| bf16::from_f32(size * rng.random_range(-1.0..1.0)));
            let place = rng.random_range(0..block.len());
            block[place] = largest(amax);
            if amax == -448.0 {
                block[(place + 1) % block.len()] = bf16::NEG_INFINITY;
                block[(place + 2) % block.len()] = bf16::NAN;
            }
        }
    };
    let mut x = vec![bf16::ZERO; m * k];
    x.par_chunks_mut(k.max(1)).enumerate().for_each(fill);
    x
}
