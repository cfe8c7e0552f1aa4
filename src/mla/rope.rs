//! Rotary position embedding of queries and keys.

use half::bf16;

use super::cache::ROPE;
use crate::device::bindings::RopeParams;
use crate::device::{Device, Stream};
use crate::error::{Error, OperandProblem, Result, Shape, ViewProblem};
use crate::launch::{Kernel, KernelRow, Launch, Layout, MAX_DIM, check_limit};
use crate::table::PIECE;
use crate::table::mla;
use crate::tensor::{Indices, Matrix, MatrixMut, Slice, SliceMut};

const ROTATE: KernelRow<RopeParams> = KernelRow::of(mla::ROPE);

/// 64 columns of every head of every token, wherever they lie: token `t`, head `h` starts at element
/// `t * token_stride + h * head_stride`.
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
        let shape = HeadsShape { heads, head_stride };
        Ok(Self { matrix: Matrix::with_pitch(slice, tokens, shape.columns()?, token_stride)?, shape })
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
        let shape = HeadsShape { heads, head_stride };
        Ok(Self { matrix: MatrixMut::with_pitch(slice, tokens, shape.columns()?, token_stride)?, shape })
    }
}

/// How the heads of a token lie.
#[derive(Debug, Clone, Copy)]
struct HeadsShape {
    heads: usize,
    head_stride: usize,
}

impl HeadsShape {
    /// Elements from a token's first to its last one, both included. Saturates: no slice is that long.
    fn columns(self) -> Result<usize> {
        let Self { heads, head_stride } = self;
        if heads > 1 && head_stride < ROPE {
            return Err(ViewProblem::PitchTooSmall { columns: ROPE, pitch: head_stride }.into());
        }
        Ok(heads.checked_sub(1).map_or(0, |gaps| gaps.saturating_mul(head_stride).saturating_add(ROPE)))
    }

    /// Fails unless these are the heads of `rows` tokens that `expected` has, and each starts where 16 bytes can be read.
    fn check(self, operand: &'static str, axes: &'static str, rows: usize, expected: Shape) -> Result<()> {
        let got = Shape::Matrix(rows, self.heads);
        if got != expected {
            return Err(Error::Operand { operand, problem: OperandProblem::Shape { axes, expected, got } });
        }
        let got = (self.head_stride as u64).saturating_mul(size_of::<bf16>() as u64);
        if self.heads <= 1 || got.is_multiple_of(16) {
            return Ok(());
        }
        Err(Error::misaligned(operand, "stride of heads", 16, got))
    }
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
}

impl RopeSpec {
    /// With a table of so many positions.
    pub const fn new(tokens: usize, heads: usize, positions: usize) -> Self {
        Self { tokens, heads, positions }
    }
}

/// Operands of a rotation. Addresses and strides are multiples of 16 bytes.
#[derive(Debug)]
pub struct RopeArgs<'a> {
    /// `[tokens, heads, 64]`: 32 pairs of neighbours.
    pub x: Heads<'a>,
    /// `[tokens]`: the row of the table for every token.
    pub positions: Indices<'a>,
    /// `[positions, 64]`: cos and sin of each pair's angle in turn, as [`RopeTable`](crate::mla::RopeTable) makes them.
    pub table: Matrix<'a, f32>,
    /// `[tokens, heads, 64]`: pairs of neighbours again, where Hugging Face's would be taken apart.
    pub out: HeadsMut<'a>,
}

/// A planned rotation: `(x cos - y sin, x sin + y cos)` of every pair `(x, y)`, in FP32, each product and each sum rounded
/// by itself, then to BF16.
#[derive(Debug)]
pub struct Rope {
    device: Device,
    kernel: Kernel<RopeParams>,
    spec: RopeSpec,
    grid: u32,
}

/// Threads of a head: 16 bytes each.
const THREADS_PER_HEAD: u64 = ROPE as u64 / PIECE as u64;

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
        let grid = (rows * THREADS_PER_HEAD).div_ceil(ROTATE.threads().into()) as u32;
        Ok(Self { device: device.clone(), kernel: ROTATE.load(device)?, spec, grid })
    }

    /// Enqueues the rotation. Tokens whose position is not in the table become zeros, and [`Device::poll_error`] tells of
    /// it.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: RopeArgs<'_>) -> Result<()> {
        let RopeSpec { tokens, heads, positions } = self.spec;
        let (x, out, shape) = (&args.x, &mut args.out, Shape::Matrix(tokens, heads));
        x.shape.check("x", "[tokens, heads]", x.matrix.extent.rows, shape)?;
        out.shape.check("out", "[tokens, heads]", out.matrix.extent.rows, shape)?;
        let (x_head_stride, out_head_stride) = (x.shape.head_stride as u64, out.shape.head_stride as u64);

        let table = Layout::matrix("table [positions, 64]", [positions, ROPE]).aligned(16);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let x = launch.read(&x.matrix, Layout::of_any_shape("x").aligned(16))?;
        let rows = launch.indices(&args.positions, Layout::vector("positions [tokens]", tokens))?;
        let table = launch.read(&args.table, table)?;
        let out = launch.write(&mut out.matrix, Layout::of_any_shape("out").aligned(16))?;
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
            ..Default::default()
        };
        launch.run(self.grid, &params)
    }
}
