//! Indices in memory, of any width.

use deepseek_kernels::{Indices, Matrix, Vector};

use super::{Operand, Scalar};

/// What an engine keeps its indices in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexType {
    I32,
    U32,
    I64,
}

impl IndexType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::I32, Self::U32, Self::I64];
}

/// Indices that a kernel reads.
pub enum IndexOperand {
    I32(Operand<i32>),
    U32(Operand<u32>),
    I64(Operand<i64>),
}

impl IndexOperand {
    /// The view of a list or a matrix.
    ///
    /// # Errors
    /// None: the buffer holds it.
    pub fn indices(&self) -> deepseek_kernels::Result<Indices<'_>> {
        fn view<'a, T: Scalar>(operand: &'a Operand<T>) -> deepseek_kernels::Result<Indices<'a>>
        where
            Indices<'a>: From<Matrix<'a, T>> + From<Vector<'a, T>>,
        {
            Ok(if operand.rows == 1 { operand.vector()?.into() } else { operand.matrix()?.into() })
        }
        match self {
            Self::I32(operand) => view(operand),
            Self::U32(operand) => view(operand),
            Self::I64(operand) => view(operand),
        }
    }
}
