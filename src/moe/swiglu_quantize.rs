//! The activation between an expert's two GEMMs, quantised for the second one.

use float8::F8E4M3;
use half::bf16;

use super::used_rows::ExpertRows;
use crate::device::bindings::SwigluQuantizeParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::gemm::Segments;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, check_limit, check_multiple, check_not_negative,
};
use crate::quant::{MMajor, QuantizeRule, Scales1x128Mut, blocks, scales_1x128};
use crate::setters::setters;
use crate::table::quant::{blocks_per_cta, max_ctas};
use crate::table::{self, moe};
use crate::tensor::{Matrix, MatrixMut, Vector};

const SWIGLU_QUANTIZE: KernelRow<SwigluQuantizeParams> = KernelRow::of(moe::SWIGLU_QUANTIZE);

/// Which half of what the first GEMM gives is what, and so which half of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateUpOrder {
    /// `[gate; up]`, as Hugging Face, vLLM and SGLang put them together.
    GateFirst,
    /// `[up; gate]`, as TensorRT-LLM and FlashInfer do.
    UpFirst,
}

/// Shape of a SwiGLU.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SwigluQuantizeSpec {
    /// Columns of the result: a multiple of 8.
    pub intermediate: usize,
    /// At most [`MAX_EXPERTS`](crate::gemm::MAX_EXPERTS).
    pub experts: usize,
    /// The rows to work on.
    pub segments: Segments,
    /// `gate <= clamp` and `|up| <= clamp`, before anything else, as far as they are finite; itself finite and not negative.
    pub clamp: Option<f32>,
    /// How a block becomes a scale and codes.
    pub rule: QuantizeRule,
    /// Which half of x is which.
    pub order: GateUpOrder,
}

impl SwigluQuantizeSpec {
    /// Gate first, not clamped, quantised by TileKernels' rule.
    pub const fn new(intermediate: usize, experts: usize, segments: Segments) -> Self {
        let (rule, order) = (QuantizeRule::TILE_KERNELS, GateUpOrder::GateFirst);
        Self { intermediate, experts, segments, clamp: None, rule, order }
    }
}

setters!(SwigluQuantizeSpec { clamp: Option<f32>, rule: QuantizeRule, order: GateUpOrder });

/// Weights to multiply a row with, before it is quantised.
#[derive(Debug, Clone)]
pub struct RoutingWeights<'a> {
    /// `[tokens, top_k]`.
    pub weights: Matrix<'a, f32>,
    /// `[rows]`: the route of every row, as [`ExpertMap`](crate::moe::ExpertMap) gives it.
    pub row_route: Vector<'a, i32>,
}

/// Operands of a SwiGLU. Addresses and pitches: x 16 bytes, q 8 bytes.
#[derive(Debug)]
pub struct SwigluQuantizeArgs<'a> {
    /// `[rows, 2 * intermediate]`: the gate is the left half and up the right one, or the other way round.
    pub x: Matrix<'a, bf16>,
    /// On the device: `[experts + 1]` (ragged) or `[experts]` (masked), see [`Segments`].
    pub segments: Vector<'a, i32>,
    /// None: rows are not multiplied. With weights, padding rows (route -1) become 0 and are not read.
    pub routing: Option<RoutingWeights<'a>>,
    /// `[rows, intermediate]`. Rows that no expert uses are not touched.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[ceil(intermediate/128), rows]`.
    pub sf: Scales1x128Mut<'a, MMajor>,
}

/// A planned SwiGLU: `h = gate / (1 + exp(-gate)) * up`, times the weight if there are any, each step rounded to FP32
/// once; then one scale per 1x128 and codes as [`Quantize1x128`](crate::quant::Quantize1x128) chooses them.
#[derive(Debug)]
pub struct SwigluQuantize {
    device: Device,
    kernel: Kernel<SwigluQuantizeParams>,
    spec: SwigluQuantizeSpec,
    rows: ExpertRows,
    grid: u32,
}

impl SwigluQuantize {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: SwigluQuantizeSpec) -> Result<Self> {
        check_multiple("intermediate", spec.intermediate, table::PIECE as usize)?;
        spec.rule.check()?;
        check_limit("intermediate", spec.intermediate as u64, MAX_DIM / 2)?;
        spec.clamp.map_or(Ok(()), |clamp| check_not_negative("clamp", clamp))?;
        let rows = ExpertRows::new(spec.experts, spec.segments)?;
        let grid = (rows.total() as u64 * blocks(spec.intermediate) as u64)
            .div_ceil(blocks_per_cta(moe::SWIGLU_QUANTIZE));
        check_limit("CTAs of the SwiGLU", grid, max_ctas(moe::SWIGLU_QUANTIZE))?;
        let kernel = SWIGLU_QUANTIZE.load(device)?;
        Ok(Self { device: device.clone(), kernel, spec, rows, grid: grid as u32 })
    }

    /// Enqueues the SwiGLU. A route that does not exist counts as padding, and [`Device::poll_error`] tells of it, as it
    /// does of segments that leave the rows there are and of Inf and NaN in h.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], and [`Error::Spec`] for more weights than 32 bits can count; launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: SwigluQuantizeArgs<'_>) -> Result<()> {
        let (rows, intermediate) = (self.rows.total(), self.spec.intermediate);
        let k_blocks = blocks(intermediate);
        let x = Layout::matrix("x [rows, 2 * intermediate]", [rows, 2 * intermediate]).aligned(16);
        let q = Layout::matrix("q [rows, intermediate]", [rows, intermediate]).aligned(8);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let x = launch.read(&args.x, x)?;
        let segments = launch.read(&args.segments, self.rows.layout())?;
        let q = launch.write(&mut args.q, q)?;
        let sf = launch.write(&mut args.sf, scales_1x128::<MMajor>(rows, k_blocks).called("sf"))?;
        let right = x.pointer.wrapping_add(intermediate);
        let (gate, up) = match self.spec.order {
            GateUpOrder::GateFirst => (x.pointer, right),
            GateUpOrder::UpFirst => (right, x.pointer),
        };
        let mut params = SwigluQuantizeParams {
            gate,
            up,
            used: self.rows.params(segments),
            q: q.pointer,
            sf: sf.pointer,
            error_words: launch.error_words(),
            x_pitch: x.pitch(),
            q_pitch: q.pitch(),
            sf_pitch: sf.pitch(),
            // Of 0 the sign does not matter.
            clamp: self.spec.clamp.map_or(f32::INFINITY, f32::abs),
            k: intermediate as u32,
            rule: self.spec.rule.parameter(),
            ..Default::default()
        };
        if let Some(RoutingWeights { weights, row_route }) = &args.routing {
            let routes = weights.rows().saturating_mul(weights.columns());
            check_limit("tokens * top_k", routes as u64, MAX_DIM)?;
            let weights = launch.read(weights, Layout::of_any_shape("weights"))?;
            params.weights = weights.pointer;
            params.weights_pitch = weights.pitch();
            params.top_k = weights.extent.columns as u32;
            params.routes = routes as u32;
            params.row_route = launch.read(row_route, Layout::vector("row_route [rows]", rows))?.pointer;
        }
        launch.run(self.grid, &params)
    }
}
