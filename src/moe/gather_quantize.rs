//! Rows of tokens, gathered by expert and quantised: the A operand of the experts' first GEMM.

use float8::F8E4M3;
use half::bf16;

use super::used_rows::ExpertRows;
use crate::device::bindings::GatherQuantizeParams;
use crate::device::{Device, KernelHandle, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::gemm::Segments;
use crate::launch::{Launch, MAX_DIM, MAX_GRID, check_limit, check_multiple};
use crate::quant::{BLOCK, MMajor, Scales1x128Mut};
use crate::quant::{BLOCKS_PER_CTA, ScaleFormat};
use crate::table::moe::GATHER_QUANTIZE;
use crate::tensor::{Matrix, MatrixMut};

/// Shape of a gather.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GatherQuantizeSpec {
    /// Rows of x.
    pub tokens: usize,
    /// Routes of a token.
    pub top_k: usize,
    /// Columns of x: a multiple of 128.
    pub hidden: usize,
    /// At most [`MAX_EXPERTS`](crate::gemm::MAX_EXPERTS).
    pub experts: usize,
    /// The rows to fill.
    pub segments: Segments,
    /// How scales are chosen.
    pub format: ScaleFormat,
}

/// Operands of a gather. Addresses and pitches: x 16 bytes, q 8 bytes.
pub struct GatherQuantizeArgs<'a> {
    /// `[tokens, hidden]`.
    pub x: Matrix<'a, bf16>,
    /// `[1, rows]`: the route of every row, as [`ExpertMap`](crate::moe::ExpertMap) gives it.
    pub row_route: Matrix<'a, i32>,
    /// On the device: `[1, experts + 1]` (ragged) or `[1, experts]` (masked), see [`Segments`].
    pub segments: Matrix<'a, i32>,
    /// `[rows, hidden]`. Rows that no expert uses are not touched; padding within a segment becomes 0.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[hidden/128, rows]`; padding gets the scale of a block of zeros.
    pub sf: Scales1x128Mut<'a, MMajor>,
}

/// A planned gather. A row's bits are those that [`Quantize1x128`](crate::quant::Quantize1x128) gives for its token.
pub struct GatherQuantize {
    device: Device,
    kernel: KernelHandle,
    spec: GatherQuantizeSpec,
    rows: ExpertRows,
    grid: u32,
}

impl GatherQuantize {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for hidden, [`Error::TooLarge`].
    pub fn plan(device: &Device, spec: GatherQuantizeSpec) -> Result<Self> {
        check_multiple("hidden", spec.hidden, BLOCK)?;
        check_limit("hidden", spec.hidden as u64, MAX_DIM)?;
        check_limit("tokens * top_k", spec.tokens.saturating_mul(spec.top_k) as u64, MAX_DIM)?;
        let rows = ExpertRows::new(spec.experts, spec.segments)?;
        let grid = (rows.total() as u64 * (spec.hidden / BLOCK) as u64).div_ceil(BLOCKS_PER_CTA);
        check_limit("CTAs of the gather", grid, MAX_GRID)?;
        let kernel = device.kernel(GATHER_QUANTIZE.name)?;
        Ok(Self { device: device.clone(), kernel, spec, rows, grid: grid as u32 })
    }

    /// Enqueues the gather. A route that does not exist counts as padding, and [`Device::poll_error`] tells of it, as it
    /// does of segments that leave the rows there are and of Inf and NaN.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Misaligned`], [`Error::WrongDevice`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: GatherQuantizeArgs<'_>) -> Result<()> {
        let GatherQuantizeSpec { tokens, top_k, hidden, format, .. } = self.spec;
        let rows = self.rows.total();
        args.x.extent.expect("x [tokens, hidden]", tokens, hidden)?;
        args.x.extent.expect_pitch("x", size_of::<bf16>(), 16)?;
        args.row_route.extent.expect("row_route [1, rows]", 1, rows)?;
        self.rows.check(&args.segments.extent)?;
        args.q.extent.expect("q [rows, hidden]", rows, hidden)?;
        args.q.extent.expect_pitch("q", size_of::<F8E4M3>(), 8)?;
        args.sf.expect(rows, hidden / BLOCK)?;
        let stream = stream.into();
        let mut launch = Launch::new(&self.device, &self.kernel, &stream)?;
        let (_, sf_pitch) = args.sf.strides();
        let params = GatherQuantizeParams {
            x: launch.read_aligned(c"x", &args.x.slice, 16)?.cast(),
            row_route: launch.read(c"row_route", &args.row_route.slice)?.cast(),
            used: self.rows.params(launch.read(c"segments", &args.segments.slice)?),
            q: launch.write_aligned(c"q", &mut args.q.slice, 8)?.cast(),
            sf: launch.write(c"sf", &mut args.sf.matrix.slice)?.cast(),
            error_words: launch.error_words().cast(),
            x_pitch: args.x.extent.pitch as u64,
            q_pitch: args.q.extent.pitch as u64,
            sf_pitch,
            routes: (tokens * top_k) as u32,
            top_k: top_k as u32,
            k_blocks: (hidden / BLOCK) as u32,
            scale_format: format.code(),
        };
        launch.run(self.grid, GATHER_QUANTIZE.threads, GATHER_QUANTIZE.smem_bytes, &params)
    }
}
