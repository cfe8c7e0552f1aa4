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

use super::scales::{BLOCK, SFB_AXES, ScaleLayout, Scales1x128Mut, Scales128x128Mut};
use crate::device::bindings::{Quantize1x128Params, Quantize128x128Params, SCALE_FP32, SCALE_POWER_OF_TWO};
use crate::device::{Device, KernelHandle, Stream};
use crate::error::{Error, Result};
use crate::launch::{Launch, MAX_DIM, MAX_GRID, check_limit};
use crate::table::FixedKernel;
use crate::table::quant::{QUANTIZE_1X128, QUANTIZE_128X128};
use crate::tensor::Extent;
use crate::tensor::{Matrix, MatrixMut};

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
pub struct QuantizeSpec {
    /// Any number, 0 included.
    pub rows: usize,
    /// A multiple of 128.
    pub k: usize,
    /// How scales are chosen.
    pub format: ScaleFormat,
}

/// The quantiser of activations and gradients: one scale per 1x128.
pub struct Quantize1x128(Plan);

/// The quantiser of weights: one scale per 128x128; rows past the end count as zero.
pub struct Quantize128x128(Plan);

struct Plan {
    device: Device,
    kernel: KernelHandle,
    fixed: FixedKernel,
    spec: QuantizeSpec,
    grid: u32,
}

/// Blocks of 128 that one CTA of `quantize_1x128` handles: sixteen lanes each.
pub(crate) const BLOCKS_PER_CTA: u64 = 256 / 16;

impl Plan {
    fn new(
        device: &Device,
        spec: QuantizeSpec,
        fixed: FixedKernel,
        ctas: fn(u64, u64) -> u64,
    ) -> Result<Self> {
        if !spec.k.is_multiple_of(BLOCK) {
            return Err(Error::NotAMultiple { what: "k", multiple: BLOCK, got: spec.k });
        }
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_limit("k", spec.k as u64, MAX_DIM)?;
        let grid = ctas(spec.rows as u64, (spec.k / BLOCK) as u64);
        check_limit("CTAs of the quantiser", grid, MAX_GRID)?;
        Ok(Self {
            device: device.clone(),
            kernel: device.kernel(fixed.name)?,
            fixed,
            spec,
            grid: grid as u32,
        })
    }

    fn check(&self, x: &Extent, q: &Extent) -> Result<()> {
        let QuantizeSpec { rows, k, .. } = self.spec;
        x.expect("x [rows, k]", rows, k)?;
        q.expect("q [rows, k]", rows, k)?;
        x.expect_pitch("x", size_of::<bf16>(), 16)?;
        q.expect_pitch("q", size_of::<F8E4M3>(), 8)
    }

    fn k_blocks(&self) -> u32 {
        (self.spec.k / BLOCK) as u32
    }
}

impl Quantize1x128 {
    /// Chooses the launch for a shape; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for k, [`Error::TooLarge`].
    pub fn plan(device: &Device, spec: QuantizeSpec) -> Result<Self> {
        let ctas = |rows: u64, k_blocks: u64| (rows * k_blocks).div_ceil(BLOCKS_PER_CTA);
        Plan::new(device, spec, QUANTIZE_1X128, ctas).map(Self)
    }

    /// Enqueues `x [rows, k] -> q [rows, k], sf`; the scales go to either layout. Addresses and pitches: x 16 bytes,
    /// q 8 bytes.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Misaligned`], [`Error::WrongDevice`], launch errors.
    pub fn run<'s, L: ScaleLayout>(
        &self,
        stream: impl Into<Stream<'s>>,
        x: Matrix<'_, bf16>,
        mut q: MatrixMut<'_, F8E4M3>,
        mut sf: Scales1x128Mut<'_, L>,
    ) -> Result<()> {
        let plan = &self.0;
        plan.check(&x.extent, &q.extent)?;
        sf.expect(plan.spec.rows, plan.spec.k / BLOCK)?;
        let stream = stream.into();
        let mut launch = Launch::new(&plan.device, &plan.kernel, &stream)?;
        let (sf_row_stride, sf_group_stride) = sf.strides();
        let params = Quantize1x128Params {
            x: launch.read_aligned(c"x", &x.slice, 16)?.cast(),
            q: launch.write_aligned(c"q", &mut q.slice, 8)?.cast(),
            sf: launch.write(c"sf", &mut sf.matrix.slice)?.cast(),
            error_words: launch.error_words().cast(),
            x_pitch: x.extent.pitch as u64,
            q_pitch: q.extent.pitch as u64,
            sf_row_stride,
            sf_group_stride,
            m: plan.spec.rows as u32,
            k_blocks: plan.k_blocks(),
            scale_format: plan.spec.format.code(),
            ..Default::default()
        };
        launch.run(plan.grid, plan.fixed.threads, plan.fixed.smem_bytes, &params)
    }
}

impl Quantize128x128 {
    /// Chooses the launch for a shape; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for k, [`Error::TooLarge`].
    pub fn plan(device: &Device, spec: QuantizeSpec) -> Result<Self> {
        let ctas = |rows: u64, k_blocks: u64| rows.div_ceil(BLOCK as u64) * k_blocks;
        Plan::new(device, spec, QUANTIZE_128X128, ctas).map(Self)
    }

    /// Enqueues `x [rows, k] -> q [rows, k], sf [ceil(rows/128), k/128]`. Addresses and pitches: x 16 bytes, q 8 bytes.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Misaligned`], [`Error::WrongDevice`], launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        x: Matrix<'_, bf16>,
        mut q: MatrixMut<'_, F8E4M3>,
        mut sf: Scales128x128Mut<'_>,
    ) -> Result<()> {
        let plan = &self.0;
        plan.check(&x.extent, &q.extent)?;
        sf.0.extent.expect(SFB_AXES, plan.spec.rows.div_ceil(BLOCK), plan.spec.k / BLOCK)?;
        let stream = stream.into();
        let mut launch = Launch::new(&plan.device, &plan.kernel, &stream)?;
        let params = Quantize128x128Params {
            x: launch.read_aligned(c"x", &x.slice, 16)?.cast(),
            q: launch.write_aligned(c"q", &mut q.slice, 8)?.cast(),
            sf: launch.write(c"sf", &mut sf.0.slice)?.cast(),
            error_words: launch.error_words().cast(),
            x_pitch: x.extent.pitch as u64,
            q_pitch: q.extent.pitch as u64,
            sf_pitch: sf.0.extent.pitch as u64,
            n: plan.spec.rows as u32,
            k_blocks: plan.k_blocks(),
            scale_format: plan.spec.format.code(),
            ..Default::default()
        };
        launch.run(plan.grid, plan.fixed.threads, plan.fixed.smem_bytes, &params)
    }
}
