//! Heads of tokens, wherever they lie.

use half::bf16;

use super::cache::ROPE;
use crate::error::{Error, OperandProblem, Result, Shape, ViewProblem};
use crate::launch::{KernelParams, Launch, Layout, Operand};
use crate::tensor::{Matrix, MatrixMut, Slice, SliceMut};

/// Some columns of every head of every token, 64 unless said otherwise, wherever they lie: token `t`, head `h` starts at
/// element `t * token_stride + h * head_stride`.
///
/// The rotated columns of a query `[tokens, heads * 192]` are the slice from element 128 on with strides `heads * 192` and
/// 192; a key `[tokens, 64]` is one head. Of `kv_b_proj`'s output `[tokens, heads * 256]` the keys are 128 columns from
/// element 0 on, with strides `heads * 256` and 256, and the values those from element 128 on.
#[derive(Debug, Clone)]
pub struct Heads<'a> {
    matrix: Matrix<'a, bf16>,
    shape: HeadsShape,
}

/// [`Heads`] that a kernel writes; what lies between them is not touched.
#[derive(Debug)]
pub struct HeadsMut<'a> {
    matrix: MatrixMut<'a, bf16>,
    shape: HeadsShape,
}

/// What both have in common.
macro_rules! heads {
    ($name:ident, $matrix:ident, $slice:ident) => {
        impl<'a> $name<'a> {
            /// Heads of 64 columns in a slice.
            ///
            /// # Errors
            /// [`Error::View`] when heads or tokens overlap, or the slice is too short.
            pub fn new(
                slice: impl Into<$slice<'a, bf16>>,
                tokens: usize,
                heads: usize,
                token_stride: usize,
                head_stride: usize,
            ) -> Result<Self> {
                Self::with_columns(slice, [tokens, heads, ROPE], token_stride, head_stride)
            }

            /// Heads of any number of columns: `[tokens, heads, columns]`.
            ///
            /// # Errors
            /// As [`Self::new`].
            pub fn with_columns(
                slice: impl Into<$slice<'a, bf16>>,
                [tokens, heads, columns]: [usize; 3],
                token_stride: usize,
                head_stride: usize,
            ) -> Result<Self> {
                let shape = HeadsShape { heads, columns, head_stride };
                let matrix = $matrix::with_pitch(slice, tokens, shape.row_columns()?, token_stride)?;
                Ok(Self { matrix, shape })
            }
        }
    };
}

heads!(Heads, Matrix, Slice);
heads!(HeadsMut, MatrixMut, SliceMut);

/// How the heads of a token lie.
#[derive(Debug, Clone, Copy)]
struct HeadsShape {
    heads: usize,
    columns: usize,
    head_stride: usize,
}

impl HeadsShape {
    /// Elements from a token's first to its last one, both included. Saturates: no slice is that long.
    fn row_columns(self) -> Result<usize> {
        let Self { heads, columns, head_stride } = self;
        if heads > 1 && head_stride < columns {
            return Err(ViewProblem::PitchTooSmall { columns, pitch: head_stride }.into());
        }
        Ok(heads.checked_sub(1).map_or(0, |gaps| gaps.saturating_mul(head_stride).saturating_add(columns)))
    }

    /// Fails unless these are heads of this shape, and each starts at a multiple of so many bytes. `axes`: what the first two
    /// numbers count.
    fn check(
        self,
        operand: &'static str,
        axes: &'static str,
        tokens: usize,
        [all_tokens, all_heads, columns]: [usize; 3],
        align: u64,
    ) -> Result<()> {
        let shape_error = |axes, expected, got| {
            Err(Error::Operand { operand, problem: OperandProblem::Shape { axes, expected, got } })
        };
        let (expected, got) = (Shape::Matrix(all_tokens, all_heads), Shape::Matrix(tokens, self.heads));
        if got != expected {
            return shape_error(axes, expected, got);
        }
        let (expected, got) = (Shape::Vector(columns), Shape::Vector(self.columns));
        if got != expected {
            return shape_error("[columns] of a head", expected, got);
        }
        let got = (self.head_stride as u64).saturating_mul(size_of::<bf16>() as u64);
        if self.heads <= 1 || got.is_multiple_of(align) {
            return Ok(());
        }
        Err(Error::misaligned(operand, "stride of heads", align, got))
    }
}

impl Heads<'_> {
    /// Heads of a token.
    pub(super) fn heads(&self) -> usize {
        self.shape.heads
    }

    /// As an operand, if they have the shape: rows are tokens. And the elements from head to head.
    pub(super) fn read<'l, P: KernelParams>(
        &'l self,
        launch: &mut Launch<'l, P>,
        name: &'static str,
        axes: &'static str,
        shape: [usize; 3],
        align: u64,
    ) -> Result<(Operand<*const u16>, u64)> {
        self.shape.check(name, axes, self.matrix.extent.rows, shape, align)?;
        let operand = launch.read(&self.matrix, Layout::of_any_shape(name).aligned(align))?;
        Ok((operand, self.shape.head_stride as u64))
    }
}

impl<'a> HeadsMut<'a> {
    /// As [`Heads::read`].
    pub(super) fn write<'l, P: KernelParams>(
        &'l mut self,
        launch: &mut Launch<'l, P>,
        name: &'static str,
        axes: &'static str,
        shape: [usize; 3],
        align: u64,
    ) -> Result<(Operand<*mut u16>, u64)>
    where
        'a: 'l,
    {
        self.shape.check(name, axes, self.matrix.extent.rows, shape, align)?;
        let operand = launch.write(&mut self.matrix, Layout::of_any_shape(name).aligned(align))?;
        Ok((operand, self.shape.head_stride as u64))
    }
}
