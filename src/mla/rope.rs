//! Rotary position embedding of queries and keys.

use super::cache::ROPE;
use super::heads::{Heads, HeadsMut};
use crate::device::bindings::{ROPE_HALVES, ROPE_NEIGHBOURS, RopeParams};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit, check_multiple, check_range,
};
use crate::setters::setters;
use crate::table::PIECE;
use crate::table::mla;
use crate::tensor::{Indices, Matrix};

const ROTATE: KernelRow<RopeParams> = KernelRow::of(mla::ROPE);

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
        let (shape, align) = ([tokens, heads, columns], self.spec.align());
        let table_align = if columns.is_multiple_of(4) { 16 } else { 8 };
        let table = Layout::matrix("table [positions, columns]", [positions, columns]).aligned(table_align);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let (x, x_head_stride) = args.x.read(&mut launch, "x", "[tokens, heads]", shape, align)?;
        let rows = launch.indices(&args.positions, Layout::vector("positions [tokens]", tokens))?;
        let table = launch.read(&args.table, table)?;
        let (out, out_head_stride) = args.out.write(&mut launch, "out", "[tokens, heads]", shape, align)?;
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
