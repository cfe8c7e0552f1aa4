//! The kernel that changes the layout of 1x128 scales.

use super::scales::{MMajor, RowMajor, Scales1x128, Scales1x128Mut, blocks, scales_1x128};
use crate::device::bindings::TransposeScalesParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, KernelRow, Launch, MAX_DIM, MAX_GRID, check_limit};
use crate::table::quant;

const TRANSPOSE_SCALES: KernelRow<TransposeScalesParams> = KernelRow::of(quant::TRANSPOSE_SCALES);
const TILE: usize = quant::TRANSPOSE_TILE as usize;

/// The scales to transpose: those of an `[m, k]` matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TransposeScalesSpec {
    /// Any number, 0 included.
    pub m: usize,
    /// A multiple of 128.
    pub k: usize,
}

impl TransposeScalesSpec {
    /// Of an `[m, k]` matrix.
    pub const fn new(m: usize, k: usize) -> Self {
        Self { m, k }
    }
}

/// Operands of a transposition.
#[derive(Debug)]
pub struct TransposeScalesArgs<'a> {
    /// `[m, k/128]`.
    pub sf: Scales1x128<'a, RowMajor>,
    /// `[k/128, m]`; elements beyond m in each row are not touched.
    pub out: Scales1x128Mut<'a, MMajor>,
}

/// Copies 1x128 scales from [`RowMajor`] to [`MMajor`]: `out[g, m] = sf[m, g]`. A separate, visible step: a producer that
/// can write [`MMajor`] itself ([`Quantize1x128`](crate::quant::Quantize1x128) can) saves it.
#[derive(Debug)]
pub struct TransposeScales {
    device: Device,
    kernel: Kernel<TransposeScalesParams>,
    m: usize,
    k_blocks: usize,
}

impl TransposeScales {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: TransposeScalesSpec) -> Result<Self> {
        let TransposeScalesSpec { m, k } = spec;
        let k_blocks = blocks(k);
        check_limit("m", m as u64, MAX_DIM)?;
        check_limit("k", k as u64, MAX_DIM)?;
        let tiles = m.div_ceil(TILE) as u64 * k_blocks.div_ceil(TILE) as u64;
        check_limit("m/32 * k/4096", tiles, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: TRANSPOSE_SCALES.load(device)?, m, k_blocks })
    }

    /// Enqueues the copy. Empty scales: nothing is launched.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: TransposeScalesArgs<'_>) -> Result<()> {
        let Self { m, k_blocks, .. } = *self;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let sf = launch.read(&args.sf, scales_1x128::<RowMajor>(m, k_blocks).called("sf"))?;
        let out = launch.write(&mut args.out, scales_1x128::<MMajor>(m, k_blocks).called("out"))?;
        let params = TransposeScalesParams {
            sf: sf.pointer,
            out: out.pointer,
            sf_pitch: sf.pitch(),
            out_pitch: out.pitch(),
            m: m as u32,
            k_blocks: k_blocks as u32,
        };
        launch.run((m.div_ceil(TILE) * k_blocks.div_ceil(TILE)) as u32, &params)
    }
}
