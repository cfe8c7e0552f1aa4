use float8::F8E4M3;
use half::bf16;
use rayon::prelude::*;

use crate::codec::{E4M3_MAX, encode_e4m3};
use crate::{BLOCK, ShapeError, block, blocks, check_length};

/// How a scale follows from `amax / 448`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeScale {
    /// As it is.
    Fp32,
    /// Rounded up to a power of two.
    PowerOfTwo,
}

/// What a code is rounded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeFormula {
    /// `x * (448 / amax)`: TileKernels, DeepEP.
    Ratio,
    /// `x * (1 / scale)`: DeepGEMM.
    Reciprocal,
    /// `x / scale`: DeepSeek's `kernel.py`.
    Quotient,
    /// `x * (448 / amax)`, and the scale is the reciprocal of that factor: Transformer Engine.
    Inverse,
}

/// By which a block becomes a scale and codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizeModel {
    /// How codes follow.
    pub formula: CodeFormula,
    /// How the scale follows.
    pub scale: QuantizeScale,
    /// amax is never taken below this.
    pub amax_floor: f32,
}

impl QuantizeModel {
    /// TileKernels' rule. An empty block has the scale of 1e-4, and no 0/0.
    pub const fn tile_kernels(scale: QuantizeScale) -> Self {
        Self { formula: CodeFormula::Ratio, scale, amax_floor: 1e-4 }
    }
}

/// A quantised matrix: `x ~ q * sf`.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// Codes `[rows, k]`.
    pub q: Vec<F8E4M3>,
    /// Scales: `[ceil(k/128), rows]` of 1x128 blocks, `[ceil(rows/128), ceil(k/128)]` of 128x128 blocks; what the
    /// GEMM reads.
    pub sf: Vec<f32>,
    /// The input held an Inf or a NaN.
    pub nonfinite: bool,
}

/// One scale per 1x128 of `x` `[m, k]`, whose rows start `x_pitch` elements apart; the last block of a row may be
/// short.
///
/// amax is taken over the finite elements; codes saturate. A NaN stays NaN and an Inf becomes +-448, each in its
/// own element alone.
pub fn quantize_1x128(
    x: &[bf16],
    m: usize,
    k: usize,
    x_pitch: usize,
    model: QuantizeModel,
) -> Result<Quantized, ShapeError> {
    let rows = rows(x, m, k, x_pitch)?;
    let scales: Vec<_> = rows
        .par_iter()
        .flat_map_iter(|row| {
            row.chunks(BLOCK).map(|block| Factors::of(block.iter().map(|x| x.to_f32()), model))
        })
        .collect();

    let factors = |row: usize, g: usize| scales[row * blocks(k) + g];
    Ok(Quantized {
        q: encode(&rows, factors),
        sf: (0..blocks(k)).flat_map(|g| (0..m).map(move |row| factors(row, g).scale)).collect(),
        nonfinite: scales.iter().any(|block| block.nonfinite),
    })
}

/// One scale per 128x128 of `x` `[n, k]`; what lies beyond `n` and `k` counts as zero. Otherwise as
/// [`quantize_1x128`].
pub fn quantize_128x128(
    x: &[bf16],
    n: usize,
    k: usize,
    x_pitch: usize,
    model: QuantizeModel,
) -> Result<Quantized, ShapeError> {
    let rows = rows(x, n, k, x_pitch)?;
    let of_rows = |rows: &[&[bf16]], g: usize| {
        Factors::of(rows.iter().flat_map(|row| block(row, g)).map(|x| x.to_f32()), model)
    };
    let scales: Vec<_> =
        rows.par_chunks(BLOCK).flat_map_iter(|rows| (0..blocks(k)).map(move |g| of_rows(rows, g))).collect();

    Ok(Quantized {
        q: encode(&rows, |row, g| scales[row / BLOCK * blocks(k) + g]),
        sf: scales.iter().map(|block| block.scale).collect(),
        nonfinite: scales.iter().any(|block| block.nonfinite),
    })
}

/// One scale per 1x128 of values that were never rounded to BF16: `values(row)` gives the `k` of a row. Otherwise as
/// [`quantize_1x128`].
pub fn quantize_values(
    m: usize,
    k: usize,
    model: QuantizeModel,
    values: impl Fn(usize) -> Vec<f32> + Sync,
) -> Quantized {
    let quantize_row = |row: usize| -> Vec<(Factors, Vec<F8E4M3>)> {
        let of_block = |x: &[f32]| {
            let factors = Factors::of(x.iter().copied(), model);
            (factors, x.iter().map(|x| factors.encode(*x)).collect())
        };
        values(row).chunks(BLOCK).map(of_block).collect()
    };
    let quantized: Vec<_> = (0..m).into_par_iter().flat_map_iter(quantize_row).collect();
    Quantized {
        q: quantized.iter().flat_map(|(_, codes)| codes).copied().collect(),
        sf: (0..blocks(k))
            .flat_map(|g| quantized.iter().skip(g).step_by(blocks(k)))
            .map(|(f, _)| f.scale)
            .collect(),
        nonfinite: quantized.iter().any(|(factors, _)| factors.nonfinite),
    }
}

fn rows(x: &[bf16], rows: usize, k: usize, pitch: usize) -> Result<Vec<&[bf16]>, ShapeError> {
    if pitch < k {
        return Err(ShapeError::Pitch { k, pitch });
    }
    let expected = if rows == 0 { 0 } else { (rows - 1) * pitch + k };
    check_length("x", expected, x.len().min(expected))?;
    Ok((0..rows).map(|row| &x[row * pitch..][..k]).collect())
}

fn encode(rows: &[&[bf16]], factors: impl Fn(usize, usize) -> Factors + Sync) -> Vec<F8E4M3> {
    let encode_row = |(index, row): (usize, &&[bf16])| {
        let code = |(column, x): (usize, &bf16)| factors(index, column / BLOCK).encode(x.to_f32());
        row.iter().enumerate().map(code).collect::<Vec<_>>()
    };
    rows.par_iter().enumerate().flat_map_iter(encode_row).collect()
}

#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    /// What a value is multiplied with, or divided by.
    factor: f32,
    divides: bool,
    nonfinite: bool,
}

impl Factors {
    fn of(block: impl Iterator<Item = f32>, model: QuantizeModel) -> Self {
        let (mut amax, mut nonfinite) = (model.amax_floor, false);
        for x in block {
            if x.is_finite() {
                amax = amax.max(x.abs());
            } else {
                nonfinite = true;
            }
        }
        let divides = model.formula == CodeFormula::Quotient;
        let of_scale = |scale: f32| match model.formula {
            CodeFormula::Quotient => (scale, scale),
            _ => (scale, 1.0 / scale),
        };
        let (scale, factor) = match (model.formula, model.scale) {
            (CodeFormula::Inverse, scale) => {
                let factor = inverse_factor(amax, scale);
                (1.0 / factor, factor)
            }
            (_, QuantizeScale::PowerOfTwo) => of_scale(round_up_to_power_of_two(amax / E4M3_MAX)),
            (CodeFormula::Ratio, _) => (amax / E4M3_MAX, E4M3_MAX / amax),
            (_, QuantizeScale::Fp32) => of_scale(amax / E4M3_MAX),
        };
        Self { scale, factor, divides, nonfinite }
    }

    fn encode(&self, x: f32) -> F8E4M3 {
        F8E4M3::from_bits(encode_e4m3(if self.divides { x / self.factor } else { x * self.factor }))
    }
}

/// 1 of a block of zeros, the largest BF16 of one whose own factor FP32 cannot hold.
fn inverse_factor(amax: f32, scale: QuantizeScale) -> f32 {
    let factor = match E4M3_MAX / amax {
        _ if amax == 0.0 => 1.0,
        factor if factor.is_infinite() => bf16::MAX.to_f32(),
        factor => factor,
    };
    match scale {
        QuantizeScale::Fp32 => factor,
        QuantizeScale::PowerOfTwo => f32::from_bits(factor.to_bits() & 0x7f80_0000),
    }
}

/// Of a positive normal number: any fraction carries into the exponent, which alone is kept.
fn round_up_to_power_of_two(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0x7f_ffff) & 0x7f80_0000)
}
