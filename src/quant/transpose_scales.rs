//! The kernel that changes the layout of 1x128 scales.

use super::scales::{MMajor, RowMajor, Scales1x128, Scales1x128Mut, blocks};
use crate::device::bindings::TransposeScalesParams;
use crate::device::{Device, KernelHandle, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Launch, MAX_GRID, check_limit};
use crate::table::quant::TRANSPOSE_SCALES;

/// Copies 1x128 scales from [`RowMajor`] to [`MMajor`]: `out[g, m] = sf[m, g]`. A separate, visible step: a producer that
/// can write [`MMajor`] itself ([`Quantize1x128`](crate::quant::Quantize1x128) can) saves it.
pub struct TransposeScales {
    device: Device,
    kernel: KernelHandle,
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
        let tiles = m.div_ceil(32) as u64 * k_blocks.div_ceil(32) as u64;
        check_limit("m/32 * k/4096", tiles, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: device.kernel(TRANSPOSE_SCALES.name)?, m, k_blocks })
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
        sf.expect(self.m, self.k_blocks)?;
        out.expect(self.m, self.k_blocks)?;
        let stream = stream.into();
        let mut launch = Launch::new(&self.device, &self.kernel, &stream)?;
        let params = TransposeScalesParams {
            sf: launch.read(c"sf", &sf.matrix.slice)?.cast(),
            out: launch.write(c"out", &mut out.matrix.slice)?.cast(),
            sf_pitch: sf.matrix.extent.pitch as u64,
            out_pitch: out.matrix.extent.pitch as u64,
            m: self.m as u32,
            k_blocks: self.k_blocks as u32,
        };
        let grid = (self.m.div_ceil(32) * self.k_blocks.div_ceil(32)) as u32;
        launch.run(grid, TRANSPOSE_SCALES.threads, TRANSPOSE_SCALES.smem_bytes, &params)
    }
}
