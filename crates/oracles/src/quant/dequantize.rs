use float8::F8E4M3;
use half::bf16;

use crate::codec::decode_e4m3;
use crate::{BLOCK, ShapeError, blocks, check_length};

/// `bf16(q * sf)` of `q` `[rows, k]`, the product rounded to FP32 first; one scale per `scale_rows` x 128, `sf`
/// `[ceil(rows/scale_rows), ceil(k/128)]`.
///
/// # Errors
/// When a length does not fit.
pub fn dequantize(
    q: &[F8E4M3],
    (rows, k): (usize, usize),
    sf: &[f32],
    scale_rows: usize,
) -> Result<Vec<bf16>, ShapeError> {
    check_length("q", rows * k, q.len())?;
    check_length("sf", rows.div_ceil(scale_rows) * blocks(k), sf.len())?;
    let scale = |row: usize, column: usize| sf[row / scale_rows * blocks(k) + column / BLOCK];
    let value = |(i, code): (usize, &F8E4M3)| decode_e4m3(code.to_bits()) * scale(i / k, i % k);
    Ok(q.iter().enumerate().map(value).map(bf16::from_f32).collect())
}
