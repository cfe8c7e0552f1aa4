//! E4M3 with scales to BF16, on the device: `x = bf16(q * sf)`, the product rounded to FP32 first. For what has no FP8 kernel:
//! `kv_b_proj` of a checkpoint on its way to [`MlaAbsorb`](crate::mla::MlaAbsorb), say.
//!
//! NaN codes and scales give NaN, scales that are Inf give Inf or NaN: nothing vanishes, and nothing is reported.

use float8::F8E4M3;
use half::bf16;

use super::scales::{BLOCK, SFB_AXES, ScaleLayout, Scales1x128, Scales128x128, blocks, scales_1x128};
use crate::device::bindings::DequantizeParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, Operand, check_limit, check_multiple,
};
use crate::table::quant;
use crate::tensor::{Matrix, MatrixMut};

const DEQUANTIZE: KernelRow<DequantizeParams> = KernelRow::of(quant::DEQUANTIZE);

/// What to dequantise: an E4M3 matrix `[rows, k]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DequantizeSpec {
    /// Any number, 0 included.
    pub rows: usize,
    /// A multiple of 16. The last block of a row may be short.
    pub k: usize,
}

impl DequantizeSpec {
    /// Of a `[rows, k]` matrix.
    pub const fn new(rows: usize, k: usize) -> Self {
        Self { rows, k }
    }
}

/// Operands of [`Dequantize1x128`]. Addresses and pitches of q and x are multiples of 16 bytes.
#[derive(Debug)]
pub struct Dequantize1x128Args<'a, L> {
    /// `[rows, k]`.
    pub q: Matrix<'a, F8E4M3>,
    /// `[ceil(k/128), rows]` or `[rows, ceil(k/128)]`, as the layout says.
    pub sf: Scales1x128<'a, L>,
    /// `[rows, k]`.
    pub x: MatrixMut<'a, bf16>,
}

/// Operands of [`Dequantize128x128`]. Addresses and pitches of q and x are multiples of 16 bytes.
#[derive(Debug)]
pub struct Dequantize128x128Args<'a> {
    /// `[rows, k]`.
    pub q: Matrix<'a, F8E4M3>,
    /// `[ceil(rows/128), ceil(k/128)]`.
    pub sf: Scales128x128<'a>,
    /// `[rows, k]`.
    pub x: MatrixMut<'a, bf16>,
}

/// Of activations: one scale per 1x128.
#[derive(Debug)]
pub struct Dequantize1x128(Plan);

/// Of weights: one scale per 128x128.
#[derive(Debug)]
pub struct Dequantize128x128(Plan);

#[derive(Debug)]
struct Plan {
    device: Device,
    kernel: Kernel<DequantizeParams>,
    spec: DequantizeSpec,
    grid: u32,
}

/// Where scales lie.
struct ScalesAt {
    sf: Operand<*const f32>,
    scale_rows: u32,
    strides: (u64, u64),
}

impl Plan {
    fn new(device: &Device, spec: DequantizeSpec) -> Result<Self> {
        check_multiple("k", spec.k, quant::DEQUANTIZE_ELEMENTS as usize)?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_limit("k", spec.k as u64, MAX_DIM)?;
        let groups = spec.rows as u64 * (spec.k as u64 / u64::from(quant::DEQUANTIZE_ELEMENTS));
        let grid = groups.div_ceil(u64::from(quant::DEQUANTIZE.threads));
        check_limit("CTAs of the dequantiser", grid, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: DEQUANTIZE.load(device)?, spec, grid: grid as u32 })
    }

    fn run<'l>(
        &self,
        mut launch: Launch<'l, DequantizeParams>,
        q: &'l Matrix<'_, F8E4M3>,
        scales: ScalesAt,
        x: &'l mut MatrixMut<'_, bf16>,
    ) -> Result<()> {
        let DequantizeSpec { rows, k } = self.spec;
        let q = launch.read(q, Layout::matrix("q [rows, k]", [rows, k]).aligned(16))?;
        let x = launch.write(x, Layout::matrix("x [rows, k]", [rows, k]).aligned(16))?;
        let params = DequantizeParams {
            q: q.pointer,
            sf: scales.sf.pointer,
            x: x.pointer,
            q_pitch: q.pitch(),
            x_pitch: x.pitch(),
            sf_row_stride: scales.strides.0,
            sf_group_stride: scales.strides.1,
            m: rows as u32,
            k: k as u32,
            scale_rows: scales.scale_rows,
            ..Default::default()
        };
        launch.run(self.grid, &params)
    }
}

impl Dequantize1x128 {
    /// Chooses the launch for a shape; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: DequantizeSpec) -> Result<Self> {
        Plan::new(device, spec).map(Self)
    }

    /// Enqueues the dequantiser; the scales come in either layout.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s, L: ScaleLayout>(
        &self,
        stream: impl Into<Stream<'s>>,
        args: Dequantize1x128Args<'_, L>,
    ) -> Result<()> {
        let Dequantize1x128Args { q, sf, mut x } = args;
        let Plan { device, kernel, spec, .. } = &self.0;
        let mut launch = Launch::new(device, kernel, stream.into())?;
        let sf = launch.read(&sf, scales_1x128::<L>(spec.rows, blocks(spec.k)).called("sf"))?;
        let strides = L::strides(sf.pitch());
        self.0.run(launch, &q, ScalesAt { sf, scale_rows: 1, strides }, &mut x)
    }
}

impl Dequantize128x128 {
    /// Chooses the launch for a shape; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: DequantizeSpec) -> Result<Self> {
        Plan::new(device, spec).map(Self)
    }

    /// Enqueues the dequantiser.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, args: Dequantize128x128Args<'_>) -> Result<()> {
        let Dequantize128x128Args { q, sf, mut x } = args;
        let Plan { device, kernel, spec, .. } = &self.0;
        let mut launch = Launch::new(device, kernel, stream.into())?;
        let shape = [spec.rows.div_ceil(BLOCK), blocks(spec.k)];
        let sf = launch.read(&sf, Layout::matrix(SFB_AXES, shape).called("sf"))?;
        let strides = (sf.pitch(), 1);
        self.0.run(launch, &q, ScalesAt { sf, scale_rows: BLOCK as u32, strides }, &mut x)
    }
}
