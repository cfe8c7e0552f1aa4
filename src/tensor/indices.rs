//! Indices in the integers that an engine has.

use super::matrix::Matrix;
use super::vector::Vector;

/// Indices that a kernel reads: rows, positions, pages, experts, of whichever width the engine keeps them in.
///
/// Kernels compute with `i32`. What does not fit is treated as a negative number, which no list of indices has but -1, and
/// reported as that; of `u32`, [`u32::MAX`] is -1.
#[derive(Debug, Clone)]
pub enum Indices<'a> {
    /// As most libraries have them.
    I32(Matrix<'a, i32>),
    /// As candle has them.
    U32(Matrix<'a, u32>),
    /// As PyTorch has them.
    I64(Matrix<'a, i64>),
}

macro_rules! indices {
    ($($variant:ident($type:ty))*) => {$(
        impl<'a> From<Matrix<'a, $type>> for Indices<'a> {
            fn from(matrix: Matrix<'a, $type>) -> Self {
                Self::$variant(matrix)
            }
        }

        impl<'a> From<Vector<'a, $type>> for Indices<'a> {
            fn from(vector: Vector<'a, $type>) -> Self {
                let Vector { slice, extent } = vector;
                Self::$variant(Matrix { slice, extent })
            }
        }
    )*};
}

indices! { I32(i32) U32(u32) I64(i64) }
