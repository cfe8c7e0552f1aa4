use float8::F8E4M3;
use half::bf16;
use rayon::prelude::*;

use crate::codec::{E4M3_MAX, encode_e4m3};
use crate::{BLOCK, ShapeError, check_k, check_length};

/// amax is never taken below this, so an empty block has a scale and no 0/0.
const AMAX_FLOOR: f32 = 1e-4;

/// How a scale follows from `amax / 448`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeScale {
    /// As it is.
    Fp32,
    /// Rounded up to a power of two.
    PowerOfTwo,
}

/// A quantised matrix: `x ~ q * sf`.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// Codes `[rows, k]`.
    pub q: Vec<F8E4M3>,
    /// Scales: `[k/128, rows]` of 1x128 blocks, `[ceil(rows/128), k/128]` of 128x128 blocks; what the GEMM
    /// reads.
    pub sf: Vec<f32>,
    /// The input held an Inf or a NaN.
    pub nonfinite: bool,
}

/// One scale per 1x128 of `x` `[m, k]`, whose rows start `x_pitch` elements apart.
///
/// amax is taken over the finite elements and floored at 1e-4; the scale is `amax / 448`; a code is the
/// saturating nearest E4M3 of `x * (448 / amax)`, or of `x / scale` when the scale is a power of two and
/// the division exact. A NaN stays NaN and an Inf becomes +-448, each in its own element alone.
pub fn quantize_1x128(
    x: &[bf16],
    m: usize,
    k: usize,
    x_pitch: usize,
    scale: QuantizeScale,
) -> Result<Quantized, ShapeError> {
    let rows = rows(x, m, k, x_pitch)?;
    let blocks: Vec<_> = rows
        .par_iter()
        .flat_map_iter(|row| {
            row.chunks_exact(BLOCK).map(|block| Factors::of(block.iter().map(|x| x.to_f32()), scale))
        })
        .collect();

    let k_blocks = k / BLOCK;
    let factors = |row: usize, g: usize| blocks[row * k_blocks + g];
    Ok(Quantized {
        q: encode(&rows, factors),
        sf: (0..k_blocks).flat_map(|g| (0..m).map(move |row| factors(row, g).scale)).collect(),
        nonfinite: blocks.iter().any(|block| block.nonfinite),
    })
}

/// One scale per 128x128 of `x` `[n, k]`; rows beyond `n` count as zero. Otherwise as [`quantize_1x128`].
pub fn quantize_128x128(
    x: &[bf16],
    n: usize,
    k: usize,
    x_pitch: usize,
    scale: QuantizeScale,
) -> Result<Quantized, ShapeError> {
    let rows = rows(x, n, k, x_pitch)?;
    let k_blocks = k / BLOCK;
    let block = |row_block: &[&[bf16]], g: usize| {
        Factors::of(row_block.iter().flat_map(|row| &row[g * BLOCK..][..BLOCK]).map(|x| x.to_f32()), scale)
    };
    let blocks: Vec<_> =
        rows.par_chunks(BLOCK).flat_map_iter(|rows| (0..k_blocks).map(move |g| block(rows, g))).collect();

    Ok(Quantized {
        q: encode(&rows, |row, g| blocks[row / BLOCK * k_blocks + g]),
        sf: blocks.iter().map(|block| block.scale).collect(),
        nonfinite: blocks.iter().any(|block| block.nonfinite),
    })
}

/// One scale per 1x128 of values that were never rounded to BF16: `values(row)` gives the `k` of a row. Otherwise as
/// [`quantize_1x128`].
///
/// # Errors
/// When k is no multiple of 128.
pub fn quantize_values(
    m: usize,
    k: usize,
    scale: QuantizeScale,
    values: impl Fn(usize) -> Vec<f32> + Sync,
) -> Result<Quantized, ShapeError> {
    check_k(k)?;
    let k_blocks = k / BLOCK;
    let quantize_row = |row: usize| -> Vec<(Factors, Vec<F8E4M3>)> {
        let values = values(row);
        let block = |x: &[f32]| {
            let factors = Factors::of(x.iter().copied(), scale);
            (factors, x.iter().map(|x| F8E4M3::from_bits(encode_e4m3(x * factors.multiplier))).collect())
        };
        values.chunks_exact(BLOCK).map(block).collect()
    };
    let blocks: Vec<_> = (0..m).into_par_iter().flat_map_iter(quantize_row).collect();
    Ok(Quantized {
        q: blocks.iter().flat_map(|(_, codes)| codes).copied().collect(),
        sf: (0..k_blocks)
            .flat_map(|g| blocks.iter().skip(g).step_by(k_blocks))
            .map(|(f, _)| f.scale)
            .collect(),
        nonfinite: blocks.iter().any(|(factors, _)| factors.nonfinite),
    })
}

fn rows(x: &[bf16], rows: usize, k: usize, pitch: usize) -> Result<Vec<&[bf16]>, ShapeError> {
    check_k(k)?;
    if pitch < k {
        return Err(ShapeError::Pitch { k, pitch });
    }
    let expected = if rows == 0 { 0 } else { (rows - 1) * pitch + k };
    check_length("x", expected, x.len().min(expected))?;
    Ok((0..rows).map(|row| &x[row * pitch..][..k]).collect())
}

fn encode(rows: &[&[bf16]], factors: impl Fn(usize, usize) -> Factors + Sync) -> Vec<F8E4M3> {
    let encode_row = |(index, row): (usize, &&[bf16])| {
        let multiplier = |column: usize| factors(index, column / BLOCK).multiplier;
        let codes = row.iter().enumerate().map(|(column, x)| encode_e4m3(x.to_f32() * multiplier(column)));
        codes.map(F8E4M3::from_bits).collect::<Vec<_>>()
    };
    rows.par_iter().enumerate().flat_map_iter(encode_row).collect()
}

#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    multiplier: f32,
    nonfinite: bool,
}

impl Factors {
    fn of(block: impl Iterator<Item = f32>, format: QuantizeScale) -> Self {
        let mut amax = AMAX_FLOOR;
        let mut nonfinite = false;
        for x in block {
            if x.is_finite() {
                amax = amax.max(x.abs());
            } else {
                nonfinite = true;
            }
        }
        let (scale, multiplier) = match format {
            QuantizeScale::Fp32 => (amax / E4M3_MAX, E4M3_MAX / amax),
            QuantizeScale::PowerOfTwo => {
                let scale = round_up_to_power_of_two(amax / E4M3_MAX);
                (scale, 1.0 / scale)
            }
        };
        Self { scale, multiplier, nonfinite }
    }
}

/// Of a positive normal number: any fraction carries into the exponent, which alone is kept.
fn round_up_to_power_of_two(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0x7f_ffff) & 0x7f80_0000)
}
