//! BF16 to E4M3 with scales, on the device. The rule is `docs/numerics.md`, "Quantiser":
//!
//! * amax is taken over the *finite* elements of a block and floored at 1e-4;
//! * FP32 scales: `scale = amax / 448`, `code = e4m3(x * (448 / amax))`;
//! * power-of-two scales: `scale` is rounded up to a power of two, `code = e4m3(x * (1 / scale))`;
//! * `e4m3` rounds to nearest even and saturates at 448; -0 keeps its sign.
//!
//! An Inf saturates, a NaN stays NaN, each in its own element only, and [`Device::poll_error`] tells of both.

use float8::F8E4M3;
use half::bf16;

use super::scales::{BLOCK, SFB_AXES, ScaleLayout, Scales1x128Mut, Scales128x128Mut, scales_1x128};
use crate::device::bindings::{Quantize1x128Params, Quantize128x128Params, SCALE_FP32, SCALE_POWER_OF_TWO};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelParams, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit, check_multiple,
};
use crate::setters::setters;
use crate::table::quant;
use crate::tensor::{Matrix, MatrixMut};

const QUANTIZE_1X128: KernelRow<Quantize1x128Params> = KernelRow::of(quant::QUANTIZE_1X128);
const QUANTIZE_128X128: KernelRow<Quantize128x128Params> = KernelRow::of(quant::QUANTIZE_128X128);

/// How a scale is chosen. Either way it is stored as FP32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// `amax / 448`.
    Fp32,
    /// The next power of two above it: requantising along the other axis then changes almost nothing.
    PowerOfTwo,
}

impl ScaleFormat {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Fp32 => SCALE_FP32,
            Self::PowerOfTwo => SCALE_POWER_OF_TWO,
        }
    }
}

/// What to quantise: a BF16 matrix `[rows, k]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct QuantizeSpec {
    /// Any number, 0 included.
    pub rows: usize,
    /// A multiple of 128.
    pub k: usize,
    /// How scales are chosen.
    pub format: ScaleFormat,
}

impl QuantizeSpec {
    /// With scales as they are.
    pub const fn new(rows: usize, k: usize) -> Self {
        Self { rows, k, format: ScaleFormat::Fp32 }
    }
}

setters!(QuantizeSpec { format: ScaleFormat });

/// Operands of [`Quantize1x128`]. Addresses and pitches: x 16 bytes, q 8 bytes.
#[derive(Debug)]
pub struct Quantize1x128Args<'a, L> {
    /// `[rows, k]`.
    pub x: Matrix<'a, bf16>,
    /// `[rows, k]`.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[k/128, rows]` or `[rows, k/128]`, as the layout says.
    pub sf: Scales1x128Mut<'a, L>,
}

/// Operands of [`Quantize128x128`]. Addresses and pitches: x 16 bytes, q 8 bytes.
#[derive(Debug)]
pub struct Quantize128x128Args<'a> {
    /// `[rows, k]`.
    pub x: Matrix<'a, bf16>,
    /// `[rows, k]`.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[ceil(rows/128), k/128]`.
    pub sf: Scales128x128Mut<'a>,
}

/// The quantiser of activations and gradients: one scale per 1x128.
#[derive(Debug)]
pub struct Quantize1x128(Plan<Quantize1x128Params>);

/// The quantiser of weights: one scale per 128x128; rows past the end count as zero.
#[derive(Debug)]
pub struct Quantize128x128(Plan<Quantize128x128Params>);

#[derive(Debug)]
struct Plan<P> {
    device: Device,
    kernel: Kernel<P>,
    spec: QuantizeSpec,
    grid: u32,
}

impl<P: KernelParams> Plan<P> {
    fn new(
        device: &Device,
        spec: QuantizeSpec,
        row: &KernelRow<P>,
        ctas: fn(u64, u64) -> u64,
        max_ctas: u64,
    ) -> Result<Self> {
        check_multiple("k", spec.k, BLOCK)?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_limit("k", spec.k as u64, MAX_DIM)?;
        let grid = ctas(spec.rows as u64, (spec.k / BLOCK) as u64);
        check_limit("CTAs of the quantiser", grid, max_ctas)?;
        Ok(Self { device: device.clone(), kernel: row.load(device)?, spec, grid: grid as u32 })
    }

    fn x(&self) -> Layout {
        Layout::matrix("x [rows, k]", [self.spec.rows, self.spec.k]).aligned(16)
    }

    fn q(&self) -> Layout {
        Layout::matrix("q [rows, k]", [self.spec.rows, self.spec.k]).aligned(8)
    }

    fn k_blocks(&self) -> usize {
        self.spec.k / BLOCK
    }
}

impl Quantize1x128 {
    /// Chooses the launch for a shape; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: QuantizeSpec) -> Result<Self> {
        const ROWS: u64 = quant::QUANTIZE_1X128_ROWS as u64;
        const BLOCKS_PER_CTA: u64 = quant::blocks_per_cta(quant::QUANTIZE_1X128);
        let ctas = |rows: u64, k_blocks: u64| (rows.div_ceil(ROWS) * k_blocks).div_ceil(BLOCKS_PER_CTA);
        Plan::new(device, spec, &QUANTIZE_1X128, ctas, quant::max_ctas(quant::QUANTIZE_1X128)).map(Self)
    }

    /// Enqueues the quantiser; the scales go to either layout.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s, L: ScaleLayout>(
        &self,
        stream: impl Into<Stream<'s>>,
        args: Quantize1x128Args<'_, L>,
    ) -> Result<()> {
        let Quantize1x128Args { x, mut q, mut sf } = args;
        let plan = &self.0;
        let sf_layout = scales_1x128::<L>(plan.spec.rows, plan.k_blocks()).called("sf");
        let mut launch = Launch::new(&plan.device, &plan.kernel, stream.into())?;
        let x = launch.read(&x, plan.x())?;
        let q = launch.write(&mut q, plan.q())?;
        let sf = launch.write(&mut sf, sf_layout)?;
        let (sf_row_stride, sf_group_stride) = L::strides(sf.pitch());
        let params = Quantize1x128Params {
            x: x.pointer,
            q: q.pointer,
            sf: sf.pointer,
            error_words: launch.error_words(),
            x_pitch: x.pitch(),
            q_pitch: q.pitch(),
            sf_row_stride,
            sf_group_stride,
            m: plan.spec.rows as u32,
            k_blocks: plan.k_blocks() as u32,
            scale_format: plan.spec.format.code(),
            ..Default::default()
        };
        launch.run(plan.grid, &params)
    }
}

impl Quantize128x128 {
    /// Chooses the launch for a shape; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: QuantizeSpec) -> Result<Self> {
        let ctas = |rows: u64, k_blocks: u64| rows.div_ceil(BLOCK as u64) * k_blocks;
        Plan::new(device, spec, &QUANTIZE_128X128, ctas, MAX_GRID).map(Self)
    }

    /// Enqueues the quantiser.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, args: Quantize128x128Args<'_>) -> Result<()> {
        let Quantize128x128Args { x, mut q, mut sf } = args;
        let plan = &self.0;
        let sf_shape = [plan.spec.rows.div_ceil(BLOCK), plan.k_blocks()];
        let mut launch = Launch::new(&plan.device, &plan.kernel, stream.into())?;
        let x = launch.read(&x, plan.x())?;
        let q = launch.write(&mut q, plan.q())?;
        let sf = launch.write(&mut sf, Layout::matrix(SFB_AXES, sf_shape).called("sf"))?;
        let params = Quantize128x128Params {
            x: x.pointer,
            q: q.pointer,
            sf: sf.pointer,
            error_words: launch.error_words(),
            x_pitch: x.pitch(),
            q_pitch: q.pitch(),
            sf_pitch: sf.pitch(),
            n: plan.spec.rows as u32,
            k_blocks: plan.k_blocks() as u32,
            scale_format: plan.spec.format.code(),
            ..Default::default()
        };
        launch.run(plan.grid, &params)
    }
}
