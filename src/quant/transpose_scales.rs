//! The kernel that changes the layout of 1x128 scales.

use super::scales::{MMajor, RowMajor, Scales1x128, Scales1x128Mut, blocks, scales_1x128};
use crate::device::bindings::TransposeScalesParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, KernelRow, Launch, MAX_GRID, check_limit};
use crate::table::quant;

const TRANSPOSE_SCALES: KernelRow<TransposeScalesParams> = KernelRow::of(quant::TRANSPOSE_SCALES);
const TILE: usize = quant::TRANSPOSE_TILE as usize;

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
    /// For the scales of an `[m, k]` matrix.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for k, [`Error::TooLarge`].
    pub fn plan(device: &Device, m: usize, k: usize) -> Result<Self> {
        let k_blocks = blocks(k)?;
        let tiles = m.div_ceil(TILE) as u64 * k_blocks.div_ceil(TILE) as u64;
        check_limit("m/32 * k/4096", tiles, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: TRANSPOSE_SCALES.load(device)?, m, k_blocks })
    }

    /// Enqueues the copy. Elements of `out` beyond m in each row are not touched. Empty scales: nothing is launched.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have the planned shape, [`Error::WrongDevice`], launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        sf: Scales1x128<'_, RowMajor>,
        mut out: Scales1x128Mut<'_, MMajor>,
    ) -> Result<()> {
        let Self { m, k_blocks, .. } = *self;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let sf = launch.read(&sf.matrix, scales_1x128::<RowMajor>(m, k_blocks).called("sf"))?;
        let out = launch.write(&mut out.matrix, scales_1x128::<MMajor>(m, k_blocks).called("out"))?;
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
