//! Rotary position embedding of queries and keys.

use half::bf16;

use super::cache::ROPE;
use crate::device::bindings::{ROPE_HALVES, ROPE_NEIGHBOURS, RopeParams};
use crate::device::{Device, Stream};
use crate::error::{Error, OperandProblem, Result, Shape, ViewProblem};
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit, check_multiple, check_range,
};
use crate::setters::setters;
use crate::table::PIECE;
use crate::table::mla;
use crate::tensor::{Indices, Matrix, MatrixMut, Slice, SliceMut};

const ROTATE: KernelRow<RopeParams> = KernelRow::of(mla::ROPE);

/// Some columns of every head of every token, 64 unless said otherwise, wherever they lie: token `t`, head `h` starts at
/// element `t * token_stride + h * head_stride`.
///
/// The rotated columns of a query `[tokens, heads * 192]` are the slice from element 128 on with strides `heads * 192` and
/// 192; a key `[tokens, 64]` is one head.
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

impl<'a> Heads<'a> {
    /// Heads in a slice.
    ///
    /// # Errors
    /// [`Error::View`] when heads or tokens overlap, or the slice is too short.
    pub fn new(
        slice: impl Into<Slice<'a, bf16>>,
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
        slice: impl Into<Slice<'a, bf16>>,
        [tokens, heads, columns]: [usize; 3],
        token_stride: usize,
        head_stride: usize,
    ) -> Result<Self> {
        let shape = HeadsShape { heads, columns, head_stride };
        Ok(Self { matrix: Matrix::with_pitch(slice, tokens, shape.span()?, token_stride)?, shape })
    }
}

impl<'a> HeadsMut<'a> {
    /// Heads in a slice.
    ///
    /// # Errors
    /// As [`Heads::new`].
    pub fn new(
        slice: impl Into<SliceMut<'a, bf16>>,
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
        slice: impl Into<SliceMut<'a, bf16>>,
        [tokens, heads, columns]: [usize; 3],
        token_stride: usize,
        head_stride: usize,
    ) -> Result<Self> {
        let shape = HeadsShape { heads, columns, head_stride };
        Ok(Self { matrix: MatrixMut::with_pitch(slice, tokens, shape.span()?, token_stride)?, shape })
    }
}

/// How the heads of a token lie.
#[derive(Debug, Clone, Copy)]
struct HeadsShape {
    heads: usize,
    columns: usize,
    head_stride: usize,
}

impl HeadsShape {
    /// Elements from a token's first to its last one, both included. Saturates: no slice is that long.
    fn span(self) -> Result<usize> {
        let Self { heads, columns, head_stride } = self;
        if heads > 1 && head_stride < columns {
            return Err(ViewProblem::PitchTooSmall { columns, pitch: head_stride }.into());
        }
        Ok(heads.checked_sub(1).map_or(0, |gaps| gaps.saturating_mul(head_stride).saturating_add(columns)))
    }

    /// Fails unless these are the heads of `tokens` tokens that the plan has, and each starts where so many bytes can be read.
    fn check(self, operand: &'static str, tokens: usize, spec: &RopeSpec, align: u64) -> Result<()> {
        let shape_error = |axes, expected, got| {
            Err(Error::Operand { operand, problem: OperandProblem::Shape { axes, expected, got } })
        };
        let (expected, got) = (Shape::Matrix(spec.tokens, spec.heads), Shape::Matrix(tokens, self.heads));
        if got != expected {
            return shape_error("[tokens, heads]", expected, got);
        }
        let (expected, got) = (Shape::Vector(spec.columns), Shape::Vector(self.columns));
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

/// Which columns of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RopePairs {
    /// Column `2 i` with `2 i + 1`, as DeepSeek's checkpoints have them.
    #[default]
    Neighbours,
    /// Column `i` with `columns / 2 + i`, as GPT-NeoX and Hugging Face's `rotate_half` have them.
    Halves,
}

/// Shape of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RopeSpec {
    /// Tokens, of any number of sequences; 0 included.
    pub tokens: usize,
    /// Heads of a token, all turned alike: any number, 0 included.
    pub heads: usize,
    /// Rows of the table: any number, 0 included.
    pub positions: usize,
    /// Columns of a head that are turned: an even number, at least 2, at most 65536; of halves, a multiple of 4.
    pub columns: usize,
    /// Which of them make a pair.
    pub pairs: RopePairs,
}

impl RopeSpec {
    /// Of DeepSeek's heads: 64 columns, neighbours. With a table of so many positions.
    pub const fn new(tokens: usize, heads: usize, positions: usize) -> Self {
        Self { tokens, heads, positions, columns: ROPE, pairs: RopePairs::Neighbours }
    }

    /// Columns that a thread turns.
    fn thread_columns(&self) -> usize {
        match self.pairs {
            RopePairs::Halves => 4,
            RopePairs::Neighbours if self.columns.is_multiple_of(PIECE as usize) => PIECE as usize,
            RopePairs::Neighbours => 2,
        }
    }

    /// Bytes that a thread reads of a head at a time: where heads start.
    fn align(&self) -> u64 {
        if self.thread_columns() == PIECE as usize { 16 } else { 4 }
    }
}

setters!(RopeSpec { columns: usize, pairs: RopePairs });

/// Operands of a rotation. Addresses and strides of x and out are multiples of 16 bytes for neighbours in a multiple of 8
/// columns, else of 4; those of the table are multiples of 16 bytes, or of 8 where columns are none of 4.
#[derive(Debug)]
pub struct RopeArgs<'a> {
    /// `[tokens, heads, columns]`.
    pub x: Heads<'a>,
    /// `[tokens]`: the row of the table for every token.
    pub positions: Indices<'a>,
    /// `[positions, columns]`: cos and sin of each pair's angle in turn, as [`RopeTable`](crate::mla::RopeTable) makes them.
    pub table: Matrix<'a, f32>,
    /// `[tokens, heads, columns]`: pairs lie as in x, where Hugging Face's code for DeepSeek takes neighbours apart.
    pub out: HeadsMut<'a>,
}

/// Most columns of a head.
const MAX_COLUMNS: u64 = 1 << 16;

/// A planned rotation: `(x cos - y sin, x sin + y cos)` of every pair `(x, y)`, in FP32, each product and each sum rounded
/// by itself, then to BF16.
#[derive(Debug)]
pub struct Rope {
    device: Device,
    kernel: Kernel<RopeParams>,
    spec: RopeSpec,
    grid: u32,
}

impl Rope {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: RopeSpec) -> Result<Self> {
        let rows = (spec.tokens as u64).saturating_mul(spec.heads as u64);
        check_limit("tokens", spec.tokens as u64, MAX_DIM)?;
        check_limit("heads", spec.heads as u64, MAX_DIM)?;
        check_limit("tokens * heads", rows, MAX_DIM)?;
        check_limit("positions", spec.positions as u64, MAX_DIM)?;
        check_range("columns", spec.columns, MAX_COLUMNS)?;
        let multiple = if spec.pairs == RopePairs::Halves { 4 } else { 2 };
        check_multiple("columns", spec.columns, multiple)?;
        let threads = rows.saturating_mul((spec.columns / spec.thread_columns()) as u64);
        let grid = threads.div_ceil(ROTATE.threads().into());
        check_limit("CTAs of the rotation", grid, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: ROTATE.load(device)?, spec, grid: grid as u32 })
    }

    /// Enqueues the rotation. Tokens whose position is not in the table become zeros, and [`Device::poll_error`] tells of
    /// it.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: RopeArgs<'_>) -> Result<()> {
        let RopeSpec { tokens, heads, positions, columns, pairs } = self.spec;
        let (x, out, align) = (&args.x, &mut args.out, self.spec.align());
        x.shape.check("x", x.matrix.extent.rows, &self.spec, align)?;
        out.shape.check("out", out.matrix.extent.rows, &self.spec, align)?;
        let (x_head_stride, out_head_stride) = (x.shape.head_stride as u64, out.shape.head_stride as u64);

        let table_align = if columns.is_multiple_of(4) { 16 } else { 8 };
        let table = Layout::matrix("table [positions, columns]", [positions, columns]).aligned(table_align);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let x = launch.read(&x.matrix, Layout::of_any_shape("x").aligned(align))?;
        let rows = launch.indices(&args.positions, Layout::vector("positions [tokens]", tokens))?;
        let table = launch.read(&args.table, table)?;
        let out = launch.write(&mut out.matrix, Layout::of_any_shape("out").aligned(align))?;
        let params = RopeParams {
            x: x.pointer,
            positions: rows,
            table: table.pointer,
            out: out.pointer,
            error_words: launch.error_words(),
            x_token_stride: x.pitch(),
            x_head_stride,
            out_token_stride: out.pitch(),
            out_head_stride,
            table_pitch: table.pitch(),
            tokens: tokens as u32,
            heads: heads as u32,
            table_rows: positions as u32,
            columns: columns as u32,
            pairs: match pairs {
                RopePairs::Neighbours => ROPE_NEIGHBOURS,
                RopePairs::Halves => ROPE_HALVES,
            },
            ..Default::default()
        };
        launch.run(self.grid, &params)
    }
}
