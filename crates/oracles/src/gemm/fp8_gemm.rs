//! The block-scaled FP8 GEMM `D = sum over K blocks g of sfa[g] * sfb[g] * (A_g . B_g^T)`, four times over:
//! in `f64`, as exact integers, as a bit model of the kernel, and as a bound on any correct kernel's error.

use float8::F8E4M3;
use rayon::prelude::*;

use super::{Epilogue, Operands, Sample};
use crate::codec::decode_e4m3;
use crate::tensor_core::{Parts, fused_dot_parts};
use crate::{BLOCK, block, blocks};

/// Rows and columns of the tiles that [`fold_blocks`] hands to a thread: their decoded blocks stay in its
/// cache.
const TILE: usize = 32;

/// Folds every sampled element over its K blocks, in ascending order. `load` decodes one row's block, once
/// per tile; the last one may be short.
pub(super) fn fold_blocks<B: Send + Sync, S: Copy + Send + Sync>(
    operands: &Operands,
    sample: &Sample,
    start: S,
    load: impl Fn(&[F8E4M3]) -> B + Sync,
    step: impl Fn(&mut S, &B, &B, f32, f32) + Sync,
) -> Vec<S> {
    let load_tile = |matrix: &[F8E4M3], rows: &[usize], g: usize| -> Vec<B> {
        rows.iter().map(|row| load(block(&matrix[row * operands.k..][..operands.k], g))).collect()
    };
    let fold_tile = |rows: &[usize], columns: &[usize]| -> Vec<S> {
        let mut tile = vec![start; rows.len() * columns.len()];
        for g in 0..blocks(operands.k) {
            let a = load_tile(operands.a, rows, g);
            let b = load_tile(operands.b, columns, g);
            let pairs = (0..rows.len()).flat_map(|i| (0..columns.len()).map(move |j| (i, j)));
            for (state, (i, j)) in tile.iter_mut().zip(pairs) {
                step(state, &a[i], &b[j], operands.sfa(g, rows[i]), operands.sfb(g, columns[j]));
            }
        }
        tile
    };

    let width = sample.columns.len();
    let tiles: Vec<_> = (0..sample.rows.len())
        .step_by(TILE)
        .flat_map(|row| (0..width).step_by(TILE).map(move |column| (row, column)))
        .collect();
    let folded: Vec<_> = tiles
        .par_iter()
        .map(|&(row, column)| {
            let rows = &sample.rows[row..sample.rows.len().min(row + TILE)];
            let columns = &sample.columns[column..width.min(column + TILE)];
            (row, column, columns.len(), fold_tile(rows, columns))
        })
        .collect();

    let mut result = vec![start; sample.len()];
    for (row, column, tile_width, tile) in folded {
        for (i, line) in tile.chunks_exact(tile_width).enumerate() {
            result[(row + i) * width + column..][..tile_width].copy_from_slice(line);
        }
    }
    result
}

/// What a short block lacks is zero.
pub(super) fn decode_block(codes: &[F8E4M3]) -> [f64; BLOCK] {
    std::array::from_fn(|i| codes.get(i).map_or(0.0, |code| f64::from(DECODED[usize::from(code.to_bits())])))
}

pub(super) static DECODED: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_e4m3(code as u8);
        code += 1;
    }
    table
};

/// Exact for E4M3 values: products are multiples of 2^-18 and 128 of them stay below 2^25, so any order
/// will do.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum()
}

/// The product in `f64` of the dequantised operands, before any rounding to the output type.
pub fn reference(operands: &Operands, sample: &Sample) -> Vec<f64> {
    fold_blocks(operands, sample, 0.0, decode_block, |sum, a, b, sfa, sfb| {
        *sum += f64::from(sfa) * f64::from(sfb) * dot(a, b);
    })
}

/// The kernel's result to the bit, by the tensor-core model of [`fused_dot_e4m3`](crate::tensor_core::fused_dot_e4m3).
///
/// Per K block of 128, ascending: four k steps onto zero, then the promotion `acc = fma(fl(sfa * sfb), c,
/// acc)`; at last `round(acc)`, or `round(fl(acc + D))` when accumulating. Only the class of a NaN counts.
pub fn bit_model(operands: &Operands, epilogue: &Epilogue, sample: &Sample) -> Vec<f32> {
    struct Block {
        parts: [Parts; BLOCK],
        nan: bool,
    }
    let load = |codes: &[F8E4M3]| Block {
        parts: std::array::from_fn(|i| Parts::of_e4m3(codes.get(i).copied().unwrap_or(F8E4M3::from_bits(0)))),
        nan: codes.iter().any(F8E4M3::is_nan),
    };

    let mut result = fold_blocks(operands, sample, 0.0f32, load, |acc, a, b, sfa, sfb| {
        let (a_steps, b_steps) = (a.parts.as_chunks::<32>().0, b.parts.as_chunks::<32>().0);
        let mut c = if a.nan || b.nan { f32::NAN } else { 0.0 };
        for (a, b) in a_steps.iter().zip(b_steps) {
            c = fused_dot_parts(a, b, c);
        }
        *acc = (sfa * sfb).mul_add(c, *acc);
    });
    for (index, acc) in result.iter_mut().enumerate() {
        *acc = epilogue.apply(*acc, sample.at(index));
    }
    result
}
