//! The activation between an expert's two GEMMs, quantised for the second one.

use float8::F8E4M3;
use half::bf16;

use super::used_rows::ExpertRows;
use crate::device::bindings::SwigluQuantizeParams;
use crate::device::{Device, KernelHandle, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::gemm::Segments;
use crate::launch::{Launch, MAX_DIM, MAX_GRID, check_limit, check_multiple};
use crate::quant::{BLOCK, MMajor, Scales1x128Mut};
use crate::quant::{BLOCKS_PER_CTA, ScaleFormat};
use crate::table::moe::SWIGLU_QUANTIZE;
use crate::tensor::{Matrix, MatrixMut};

/// Shape of a SwiGLU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwigluQuantizeSpec {
    /// Columns of the result: a multiple of 128.
    pub intermediate: usize,
    /// At most [`MAX_EXPERTS`](crate::gemm::MAX_EXPERTS).
    pub experts: usize,
    /// The rows to work on.
    pub segments: Segments,
    /// `gate <= clamp` and `|up| <= clamp`, before anything else; not negative.
    pub clamp: Option<f32>,
    /// How scales are chosen.
    pub format: ScaleFormat,
}

/// Weights to multiply a row with, before it is quantised.
pub struct RoutingWeights<'a> {
    /// `[tokens, top_k]`, without gaps.
    pub weights: Matrix<'a, f32>,
    /// `[1, rows]`: the route of every row, as [`ExpertMap`](crate::moe::ExpertMap) gives it.
    pub row_route: Matrix<'a, i32>,
}

/// Operands of a SwiGLU. Addresses and pitches: x 16 bytes, q 8 bytes.
pub struct SwigluQuantizeArgs<'a> {
    /// `[rows, 2 * intermediate]`: the gate is the left half, up the right one.
    pub x: Matrix<'a, bf16>,
    /// On the device: `[1, experts + 1]` (ragged) or `[1, experts]` (masked), see [`Segments`].
    pub segments: Matrix<'a, i32>,
    /// None: rows are not multiplied. With weights, padding rows (route -1) become 0 and are not read.
    pub routing: Option<RoutingWeights<'a>>,
    /// `[rows, intermediate]`. Rows that no expert uses are not touched.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[intermediate/128, rows]`.
    pub sf: Scales1x128Mut<'a, MMajor>,
}

/// A planned SwiGLU: `h = gate / (1 + exp(-gate)) * up`, times the weight if there are any, each step rounded to FP32
/// once; then one scale per 1x128 and codes as [`Quantize1x128`](crate::quant::Quantize1x128) chooses them.
pub struct SwigluQuantize {
    device: Device,
    kernel: KernelHandle,
    spec: SwigluQuantizeSpec,
    rows: ExpertRows,
    grid: u32,
}

impl SwigluQuantize {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for intermediate, [`Error::TooLarge`].
    pub fn plan(device: &Device, spec: SwigluQuantizeSpec) -> Result<Self> {
        check_multiple("intermediate", spec.intermediate, BLOCK)?;
        check_limit("intermediate", spec.intermediate as u64, MAX_DIM / 2)?;
        let rows = ExpertRows::new(spec.experts, spec.segments)?;
        let grid = (rows.total() as u64 * (spec.intermediate / BLOCK) as u64).div_ceil(BLOCKS_PER_CTA);
        check_limit("CTAs of the SwiGLU", grid, MAX_GRID)?;
        let kernel = device.kernel(SWIGLU_QUANTIZE.name)?;
        Ok(Self { device: device.clone(), kernel, spec, rows, grid: grid as u32 })
    }

    /// Enqueues the SwiGLU. A route that does not exist counts as padding, and [`Device::poll_error`] tells of it, as it
    /// does of segments that leave the rows there are and of Inf and NaN in h.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotDense`], [`Error::Misaligned`], [`Error::WrongDevice`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: SwigluQuantizeArgs<'_>) -> Result<()> {
        self.check(&args)?;
        let stream = stream.into();
        let mut launch = Launch::new(&self.device, &self.kernel, &stream)?;
        let (_, sf_pitch) = args.sf.strides();
        let mut params = SwigluQuantizeParams {
            x: launch.read_aligned(c"x", &args.x.slice, 16)?.cast(),
            used: self.rows.params(launch.read(c"segments", &args.segments.slice)?),
            q: launch.write_aligned(c"q", &mut args.q.slice, 8)?.cast(),
            sf: launch.write(c"sf", &mut args.sf.matrix.slice)?.cast(),
            error_words: launch.error_words().cast(),
            x_pitch: args.x.extent.pitch as u64,
            q_pitch: args.q.extent.pitch as u64,
            sf_pitch,
            clamp: self.spec.clamp.unwrap_or(f32::INFINITY),
            k_blocks: (self.spec.intermediate / BLOCK) as u32,
            scale_format: self.spec.format.code(),
            ..Default::default()
        };
        if let Some(RoutingWeights { weights, row_route }) = &args.routing {
            params.weights = launch.read(c"weights", &weights.slice)?.cast();
            params.row_route = launch.read(c"row_route", &row_route.slice)?.cast();
            params.routes = (weights.extent.rows * weights.extent.columns) as u32;
        }
        launch.run(self.grid, SWIGLU_QUANTIZE.threads, SWIGLU_QUANTIZE.smem_bytes, &params)
    }

    fn check(&self, args: &SwigluQuantizeArgs<'_>) -> Result<()> {
        let (rows, intermediate) = (self.rows.total(), self.spec.intermediate);
        args.x.extent.expect("x [rows, 2 * intermediate]", rows, 2 * intermediate)?;
        args.x.extent.expect_pitch("x", size_of::<bf16>(), 16)?;
        self.rows.check(&args.segments.extent)?;
        args.q.extent.expect("q [rows, intermediate]", rows, intermediate)?;
        args.q.extent.expect_pitch("q", size_of::<F8E4M3>(), 8)?;
        args.sf.expect(rows, intermediate / BLOCK)?;
        let Some(RoutingWeights { weights, row_route }) = &args.routing else { return Ok(()) };
        weights.extent.expect_dense("weights")?;
        let routes = weights.extent.rows.saturating_mul(weights.extent.columns);
        check_limit("tokens * top_k", routes as u64, MAX_DIM)?;
        row_route.extent.expect("row_route [1, rows]", 1, rows)
    }
}
