//! What a run wrote, copied back.

use anyhow::Result;
use deepseek_kernels::{F8E4M3, bf16};
use safetensors::Dtype;

use super::{Operand, Scalar};

/// An operand that a run wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Elements of a row.
    pub columns: usize,
    /// Row-major and dense, little-endian.
    pub bytes: Vec<u8>,
}

impl Output {
    /// Copies an operand back.
    ///
    /// # Errors
    /// Of the device.
    pub fn read<T: Scalar>(name: &'static str, operand: &Operand<T>) -> Result<Self> {
        Ok(Self::of(name, operand.columns(), &operand.values()?))
    }

    /// As if these elements had been copied back.
    pub fn of<T: Scalar>(name: &'static str, columns: usize, elements: &[T]) -> Self {
        let bytes =
            elements.iter().flat_map(|x| x.bits().to_le_bytes().into_iter().take(size_of::<T>())).collect();
        Self { name, dtype: T::DTYPE, columns, bytes }
    }

    /// Its elements.
    ///
    /// # Panics
    /// Unless they are of this type.
    pub fn values<T: Scalar>(&self) -> Vec<T> {
        assert_eq!(self.dtype, T::DTYPE, "type of {}", self.name);
        let bits = |bytes: &[u8]| bytes.iter().rfold(0, |bits, &byte| bits << 8 | u32::from(byte));
        self.bytes.chunks_exact(size_of::<T>()).map(|bytes| T::from_bits(bits(bytes))).collect()
    }

    /// Its elements, where those are of a floating-point type of two or four bytes.
    ///
    /// # Panics
    /// For other types.
    pub fn widened(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::BF16 => self.values::<bf16>().into_iter().map(bf16::to_f32).collect(),
            _ => self.values(),
        }
    }

    /// Which of its elements are Inf or NaN; none of integers. Bytes are rows of a cache, and count as BF16 in pairs.
    pub fn nonfinite(&self) -> Vec<bool> {
        match self.dtype {
            Dtype::F8_E4M3 => self.values::<F8E4M3>().iter().map(|x| x.is_nan()).collect(),
            Dtype::F32 => self.values::<f32>().iter().map(|x| !x.is_finite()).collect(),
            Dtype::BF16 | Dtype::U8 => {
                let pair = |pair: &[u8]| !bf16::from_le_bytes([pair[0], pair[1]]).is_finite();
                self.bytes.chunks_exact(2).map(pair).collect()
            }
            _ => vec![],
        }
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        (self.dtype.bitsize() / 8).max(1)
    }

    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.element_bytes()
    }
}
