//! The values of a matrix.

use deepseek_kernels::{F8E4M3, bf16};
use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;

use super::select::Stored;

/// A matrix as the file holds it.
pub struct Original {
    bytes: Vec<u8>,
    dtype: Dtype,
    k: usize,
    /// `[ceil(n/128), ceil(k/128)]` of an FP8 matrix.
    scales: Vec<f32>,
}

impl Original {
    pub fn read(stored: &Stored) -> Result<Self, String> {
        let bytes = stored.file.read(&stored.info)?;
        let scales = match &stored.scales {
            None => Vec::new(),
            Some(info) => {
                let bytes = stored.file.read(info)?;
                (0..bytes.len() * 8 / info.dtype.bitsize())
                    .map(|i| value(&bytes, info.dtype, i) as f32)
                    .collect()
            }
        };
        Ok(Self { bytes, dtype: stored.info.dtype, k: stored.k, scales })
    }

    /// A row in `f64`: exact, FP8 dequantised.
    pub fn row(&self, row: usize) -> Vec<f64> {
        let value = |column: usize| {
            let value = value(&self.bytes, self.dtype, row * self.k + column);
            if self.scales.is_empty() { value } else { value * f64::from(self.scale(row, column)) }
        };
        (0..self.k).map(value).collect()
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        self.scales[row / 128 * self.k.div_ceil(128) + column / 128]
    }

    /// `[n, k]` rounded to BF16, with zeros up to the padded shape.
    pub fn to_bf16(&self, padded: (usize, usize)) -> Vec<bf16> {
        let round = |index| bf16::from_f64(value(&self.bytes, self.dtype, index));
        self.padded(padded, bf16::ZERO, round)
    }

    /// The codes and scales of an FP8 matrix, with zeros up to the padded shape.
    pub fn to_fp8(&self, padded: (usize, usize)) -> (Vec<F8E4M3>, Vec<f32>) {
        let zero = F8E4M3::from_bits(0);
        (self.padded(padded, zero, |index| F8E4M3::from_bits(self.bytes[index])), self.scales.clone())
    }

    fn padded<T: Copy + Send + Sync>(
        &self,
        (n, k): (usize, usize),
        zero: T,
        element: impl Fn(usize) -> T + Sync,
    ) -> Vec<T> {
        let rows = self.bytes.len() * 8 / self.dtype.bitsize() / self.k;
        let mut matrix = vec![zero; n * k];
        matrix.par_chunks_mut(k).take(rows).enumerate().for_each(|(row, line)| {
            for (column, x) in line[..self.k].iter_mut().enumerate() {
                *x = element(row * self.k + column);
            }
        });
        matrix
    }
}

/// Element `index` of little-endian `bytes`, exactly.
fn value(bytes: &[u8], dtype: Dtype, index: usize) -> f64 {
    let pair = || [bytes[2 * index], bytes[2 * index + 1]];
    match dtype {
        Dtype::F16 => f16::from_le_bytes(pair()).to_f64(),
        Dtype::BF16 => bf16::from_le_bytes(pair()).to_f64(),
        Dtype::F8_E4M3 => F8E4M3::from_bits(bytes[index]).to_f64(),
        _ => f32::from_le_bytes(std::array::from_fn(|i| bytes[4 * index + i])).into(),
    }
}
