//! Rows of tokens, gathered by expert and quantised: the A operand of the experts' first GEMM.

use float8::F8E4M3;
use half::bf16;

use super::used_rows::{ExpertRows, check_routes};
use crate::device::bindings::GatherQuantizeParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::gemm::Segments;
use crate::launch::{Kernel, KernelRow, Launch, Layout, MAX_DIM, check_limit, check_multiple};
use crate::quant::{MMajor, QuantizeRule, Scales1x128Mut, blocks, scales_1x128};
use crate::setters::setters;
use crate::table::quant::{blocks_per_cta, max_ctas};
use crate::table::{self, moe};
use crate::tensor::{Matrix, MatrixMut, Vector};

const GATHER_QUANTIZE: KernelRow<GatherQuantizeParams> = KernelRow::of(moe::GATHER_QUANTIZE);

/// Shape of a gather.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GatherQuantizeSpec {
    /// Rows of x: any number, 0 included.
    pub tokens: usize,
    /// Routes of a token: any number, 0 included.
    pub top_k: usize,
    /// Columns of x: a multiple of 8, 0 included.
    pub hidden: usize,
    /// At most [`MAX_EXPERTS`](crate::gemm::MAX_EXPERTS), 0 included.
    pub experts: usize,
    /// The rows to fill.
    pub segments: Segments,
    /// How a block becomes a scale and codes.
    pub rule: QuantizeRule,
}

impl GatherQuantizeSpec {
    /// By TileKernels' rule, with FP32 scales.
    pub const fn new(tokens: usize, top_k: usize, hidden: usize, experts: usize, segments: Segments) -> Self {
        Self { tokens, top_k, hidden, experts, segments, rule: QuantizeRule::TILE_KERNELS }
    }
}

setters!(GatherQuantizeSpec { rule: QuantizeRule });

/// Operands of a gather. Addresses and pitches: x 16 bytes, q 8 bytes.
#[derive(Debug)]
pub struct GatherQuantizeArgs<'a> {
    /// `[tokens, hidden]`.
    pub x: Matrix<'a, bf16>,
    /// `[rows]`: the route of every row, as [`ExpertMap`](crate::moe::ExpertMap) gives it.
    pub row_route: Vector<'a, i32>,
    /// On the device: `[experts + 1]` (ragged) or `[experts]` (masked), see [`Segments`].
    pub segments: Vector<'a, i32>,
    /// `[rows, hidden]`. Rows that no expert uses are not touched; padding within a segment becomes 0.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[ceil(hidden/128), rows]`; padding gets the scale of a block of zeros.
    pub sf: Scales1x128Mut<'a, MMajor>,
}

/// A planned gather. A row's bits are those that [`Quantize1x128`](crate::quant::Quantize1x128) gives for its token.
#[derive(Debug)]
pub struct GatherQuantize {
    device: Device,
    kernel: Kernel<GatherQuantizeParams>,
    spec: GatherQuantizeSpec,
    rows: ExpertRows,
    grid: u32,
}

impl GatherQuantize {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: GatherQuantizeSpec) -> Result<Self> {
        check_multiple("hidden", spec.hidden, table::PIECE as usize)?;
        spec.rule.check()?;
        check_limit("hidden", spec.hidden as u64, MAX_DIM)?;
        check_routes(spec.tokens, spec.top_k)?;
        let rows = ExpertRows::new(spec.experts, spec.segments)?;
        let grid =
            (rows.total() as u64 * blocks(spec.hidden) as u64).div_ceil(blocks_per_cta(moe::GATHER_QUANTIZE));
        check_limit("CTAs of the gather", grid, max_ctas(moe::GATHER_QUANTIZE))?;
        let kernel = GATHER_QUANTIZE.load(device)?;
        Ok(Self { device: device.clone(), kernel, spec, rows, grid: grid as u32 })
    }

    /// Enqueues the gather. A route that does not exist counts as padding, and [`Device::poll_error`] tells of it, as it
    /// does of segments that leave the rows there are and of Inf and NaN.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: GatherQuantizeArgs<'_>) -> Result<()> {
        let GatherQuantizeSpec { tokens, top_k, hidden, rule, .. } = self.spec;
        let rows = self.rows.total();
        let k_blocks = blocks(hidden);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let x = launch.read(&args.x, Layout::matrix("x [tokens, hidden]", [tokens, hidden]).aligned(16))?;
        let row_route = launch.read(&args.row_route, Layout::vector("row_route [rows]", rows))?;
        let segments = launch.read(&args.segments, self.rows.layout())?;
        let q = launch.write(&mut args.q, Layout::matrix("q [rows, hidden]", [rows, hidden]).aligned(8))?;
        let sf = launch.write(&mut args.sf, scales_1x128::<MMajor>(rows, k_blocks).called("sf"))?;
        let params = GatherQuantizeParams {
            x: x.pointer,
            row_route: row_route.pointer,
            used: self.rows.params(segments),
            q: q.pointer,
            sf: sf.pointer,
            error_words: launch.error_words(),
            x_pitch: x.pitch(),
            q_pitch: q.pitch(),
            sf_pitch: sf.pitch(),
            routes: (tokens * top_k) as u32,
            top_k: top_k as u32,
            k: hidden as u32,
            rule: rule.parameter(),
        };
        launch.run(self.grid, &params)
    }
}
