//! Random matrices of the scale that a model's have, and large ones of few rows.

use deepseek_kernels::bf16;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// Standard deviation of a layer's weights.
const WEIGHT: f32 = 0.02;
/// One channel of activations in this many is an outlier, by this factor: what a norm's learnt gain does.
const OUTLIER_EVERY: usize = 256;
const OUTLIER: f32 = 30.0;

/// Normal weights `[n, k]`.
pub fn weights(n: usize, k: usize, seed: u64) -> Vec<bf16> {
    by_rows(n, k, seed, |rng, row| {
        row.fill_with(|| bf16::from_f32(WEIGHT * rng.sample::<f32, _>(StandardNormal)));
    })
}

/// Activations `[m, k]` behind a norm: rows of RMS 1, then a few outlier channels. From column `live` on they are 0.
pub fn activations(m: usize, live: usize, k: usize, seed: u64) -> Vec<bf16> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(!seed);
    let mut gain = vec![1.0; live];
    for stretch in gain.chunks_mut(OUTLIER_EVERY) {
        stretch[rng.random_range(0..stretch.len())] = OUTLIER;
    }
    by_rows(m, k, seed, |rng, row| {
        let normal: Vec<f32> = (0..live).map(|_| rng.sample(StandardNormal)).collect();
        let rms = (normal.iter().map(|x| x * x).sum::<f32>() / live as f32).sqrt();
        for ((x, normal), gain) in row.iter_mut().zip(normal).zip(&gain) {
            *x = bf16::from_f32(gain * normal / rms);
        }
    })
}

/// The first `rows` of a matrix that repeats the rows of `from` again and again.
pub fn repeated<T: Copy>(from: &[T], columns: usize, rows: usize) -> Vec<T> {
    let mut matrix = from.repeat((rows * columns).div_ceil(from.len().max(1)));
    matrix.truncate(rows * columns);
    matrix
}

/// These rows of it.
pub fn rows_of<T: Copy>(from: &[T], columns: usize, rows: &[usize]) -> Vec<T> {
    let there = (from.len() / columns.max(1)).max(1);
    rows.iter().flat_map(|row| &from[row % there * columns..][..columns]).copied().collect()
}

/// Zeros that `fill` replaces, each row from a generator of its own.
fn by_rows(
    rows: usize,
    k: usize,
    seed: u64,
    fill: impl Fn(&mut Xoshiro256PlusPlus, &mut [bf16]) + Sync,
) -> Vec<bf16> {
    let seeds: Vec<u64> = Xoshiro256PlusPlus::seed_from_u64(seed).random_iter().take(rows).collect();
    let mut matrix = vec![bf16::ZERO; rows * k];
    matrix
        .par_chunks_mut(k.max(1))
        .zip(&seeds)
        .for_each(|(row, &seed)| fill(&mut Xoshiro256PlusPlus::seed_from_u64(seed), row));
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_have_rms_1_apart_from_outliers_and_end_in_zeros() {
        let x = activations(4, 500, 512, 3);
        for row in x.chunks(512) {
            let ordinary: Vec<f32> =
                row[..500].iter().map(|x| x.to_f32()).filter(|x| x.abs() < 6.0).collect();
            let mean_square = ordinary.iter().map(|x| x * x).sum::<f32>() / ordinary.len() as f32;
            assert!((mean_square - 1.0).abs() < 0.05, "{mean_square}");
            assert!(row[500..].iter().all(|x| *x == bf16::ZERO));
        }
        let outliers =
            (0..500).filter(|i| x[*i..].iter().step_by(512).any(|x| x.to_f32().abs() > 6.0)).count();
        assert!((1..=2).contains(&outliers), "{outliers}");
        assert_ne!(x, activations(4, 500, 512, 4));
    }
}
