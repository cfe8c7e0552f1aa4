//! BF16 to E4M3 with scales, on the device; a [`QuantizeRule`] says how (`docs/numerics.md`, "Quantiser"). E4M3 rounds to
//! nearest even and saturates at 448; -0 keeps its sign.
//!
//! An Inf saturates, a NaN stays NaN, each in its own element only, and [`Device::poll_error`] tells of both.

use float8::F8E4M3;
use half::bf16;

use super::rule::QuantizeRule;
use super::scales::{BLOCK, SFB_AXES, ScaleLayout, Scales1x128Mut, Scales128x128Mut, blocks, scales_1x128};
use crate::device::bindings::{Quantize1x128Params, Quantize128x128Params};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelParams, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit, check_multiple,
};
use crate::setters::setters;
use crate::table::{self, quant};
use crate::tensor::{Matrix, MatrixMut};

const QUANTIZE_1X128: KernelRow<Quantize1x128Params> = KernelRow::of(quant::QUANTIZE_1X128);
const QUANTIZE_128X128: KernelRow<Quantize128x128Params> = KernelRow::of(quant::QUANTIZE_128X128);

/// What to quantise: a BF16 matrix `[rows, k]`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct QuantizeSpec {
    /// Any number, 0 included.
    pub rows: usize,
    /// A multiple of 8. The last block of a row may be short.
    pub k: usize,
    /// How a block becomes a scale and codes.
    pub rule: QuantizeRule,
}

impl QuantizeSpec {
    /// By TileKernels' rule, with FP32 scales.
    pub const fn new(rows: usize, k: usize) -> Self {
        Self { rows, k, rule: QuantizeRule::TILE_KERNELS }
    }
}

setters!(QuantizeSpec { rule: QuantizeRule });

/// Operands of [`Quantize1x128`]. Addresses and pitches: x 16 bytes, q 8 bytes.
#[derive(Debug)]
pub struct Quantize1x128Args<'a, L> {
    /// `[rows, k]`.
    pub x: Matrix<'a, bf16>,
    /// `[rows, k]`.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[ceil(k/128), rows]` or `[rows, ceil(k/128)]`, as the layout says.
    pub sf: Scales1x128Mut<'a, L>,
}

/// Operands of [`Quantize128x128`]. Addresses and pitches: x 16 bytes, q 8 bytes.
#[derive(Debug)]
pub struct Quantize128x128Args<'a> {
    /// `[rows, k]`.
    pub x: Matrix<'a, bf16>,
    /// `[rows, k]`.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[ceil(rows/128), ceil(k/128)]`.
    pub sf: Scales128x128Mut<'a>,
}

/// The quantiser of activations and gradients: one scale per 1x128.
#[derive(Debug)]
pub struct Quantize1x128(Plan<Quantize1x128Params>);

/// The quantiser of weights: one scale per 128x128; rows and columns past the end count as zero.
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
        check_multiple("k", spec.k, table::PIECE as usize)?;
        spec.rule.check()?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_limit("k", spec.k as u64, MAX_DIM)?;
        let grid = ctas(spec.rows as u64, blocks(spec.k) as u64);
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
        blocks(self.spec.k)
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
            k: plan.spec.k as u32,
            rule: plan.spec.rule.parameter(),
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
            k: plan.spec.k as u32,
            rule: plan.spec.rule.parameter(),
            ..Default::default()
        };
        launch.run(plan.grid, &params)
    }
}
