//! The values of a matrix.

use deepseek_kernels::{F8E4M3, bf16};
use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;

use super::config::BlockSize;
use super::scales::{self, BLOCK};
use super::select::{Stored, StoredScales};

/// A matrix as the file holds it.
pub struct Original {
    bytes: Vec<u8>,
    dtype: Dtype,
    k: usize,
    scales: Option<Scales>,
}

/// Of an FP8 matrix.
struct Scales {
    /// `[ceil(n/128), ceil(k/128)]`.
    values: Vec<f32>,
    /// What a scale of the file is for.
    block: BlockSize,
}

/// Why there is no matrix.
pub enum Trouble {
    /// Its values are of no use.
    Unfit(String),
    /// Something went wrong.
    Failed(String),
}

impl Original {
    pub fn read(stored: &Stored) -> Result<Self, Trouble> {
        let (n, k) = (stored.n, stored.k);
        let expert = stored.expert.unwrap_or(0);
        let elements = expert * n * k..(expert + 1) * n * k;
        let bytes = stored.file.read(&stored.info, elements).map_err(Trouble::Failed)?;
        let scales = stored.scales.as_ref().map(|scales| Scales::read(scales, expert, [n, k])).transpose()?;
        let original = Self { bytes, dtype: stored.info.dtype, k, scales };
        match original.unfit(n) {
            Some(reason) => Err(Trouble::Unfit(reason)),
            None => Ok(original),
        }
    }

    /// Why the values cannot be used, if they cannot.
    fn unfit(&self, n: usize) -> Option<String> {
        let larger = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        let worst =
            (0..n).into_par_iter().map(|row| self.row(row).into_iter().map(f64::abs).fold(0.0, larger));
        let bad = worst.find_any(|&x| x.is_nan() || x > bf16::MAX.to_f64())?;
        Some(if bad.is_finite() { "a value beyond the range of BF16" } else { "holds Inf or NaN" }.to_owned())
    }

    /// What a scale of the file is for, of an FP8 matrix.
    pub fn block(&self) -> Option<BlockSize> {
        self.scales.as_ref().map(|scales| scales.block)
    }

    /// A row in `f64`: exact, FP8 dequantised.
    pub fn row(&self, row: usize) -> Vec<f64> {
        let value = |column: usize| {
            let value = value(&self.bytes, self.dtype, row * self.k + column);
            match &self.scales {
                None => value,
                Some(Scales { values, .. }) => {
                    value * f64::from(values[row / BLOCK * self.k.div_ceil(BLOCK) + column / BLOCK])
                }
            }
        };
        (0..self.k).map(value).collect()
    }

    /// `[n, k]` rounded to BF16, with zeros up to the padded shape.
    pub fn to_bf16(&self, padded: (usize, usize)) -> Vec<bf16> {
        let round = |index| bf16::from_f64(value(&self.bytes, self.dtype, index));
        self.padded(padded, bf16::ZERO, round)
    }

    /// The codes and scales of an FP8 matrix, with zeros up to the padded shape; none of another.
    pub fn to_fp8(&self, padded: (usize, usize)) -> Option<(Vec<F8E4M3>, Vec<f32>)> {
        let scales = self.scales.as_ref()?.values.clone();
        let zero = F8E4M3::from_bits(0);
        Some((self.padded(padded, zero, |index| F8E4M3::from_bits(self.bytes[index])), scales))
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

impl Scales {
    fn read(stored: &StoredScales, expert: usize, matrix: [usize; 2]) -> Result<Self, Trouble> {
        let StoredScales { file, info, grid } = stored;
        let start = if grid.per_matrix { expert * grid.elements() } else { 0 };
        let bytes = file.read(info, start..start + grid.elements()).map_err(Trouble::Failed)?;
        let (values, block) = scales::values(&bytes, info.dtype)
            .and_then(|values| grid.expand(&values, matrix))
            .map_err(Trouble::Unfit)?;
        Ok(Self { values, block })
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
