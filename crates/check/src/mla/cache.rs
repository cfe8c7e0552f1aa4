//! Rows of a KV cache in either format.

use anyhow::Result;
use deepseek_kernels::bf16;
use deepseek_kernels::mla::{KvCache, KvCacheMut, KvFormat};
use deepseek_kernels::quant::ScaleFormat;
use oracles::mla::{Appended, kv_append_bf16, kv_append_fp8};

use super::{KEY, LATENT};
use crate::judge::Check;
use crate::memory::{Align, Arena, Operand, Output, Scalar};
use crate::quant::scale_model;

/// Rows on the host, `[_, 576]` or `[_, 656]`.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheRows {
    Bf16(Vec<bf16>),
    Fp8(Vec<u8>),
}

impl CacheRows {
    /// So many rows of poison, NaN in every code, scale and value; but for keys `[_, 576]` in those that `slots` name, as
    /// FlashMLA stores them.
    ///
    /// # Errors
    /// Unless there is a slot for each key.
    pub fn of_keys(format: KvFormat, rows: usize, keys: &[bf16], slots: &[i32]) -> Result<Self> {
        let mut cache = match format {
            KvFormat::Bf16 => Self::Bf16(vec![bf16::POISON; rows * format.columns()]),
            KvFormat::Fp8 => Self::Fp8(vec![u8::POISON; rows * format.columns()]),
        };
        let (latent, k_pe): (Vec<_>, Vec<_>) = keys.chunks_exact(KEY).map(|key| key.split_at(LATENT)).unzip();
        cache.append(&latent.concat(), &k_pe.concat(), slots, ScaleFormat::PowerOfTwo)?;
        Ok(cache)
    }

    fn columns(&self) -> usize {
        match self {
            Self::Bf16(_) => KvFormat::Bf16.columns(),
            Self::Fp8(_) => KvFormat::Fp8.columns(),
        }
    }

    /// What an append makes of the rows, by its reference.
    ///
    /// # Errors
    /// Unless tokens and slots are as many.
    pub fn append(
        &mut self,
        latent: &[bf16],
        k_pe: &[bf16],
        slots: &[i32],
        scales: ScaleFormat,
    ) -> Result<Appended> {
        Ok(match self {
            Self::Bf16(rows) => kv_append_bf16(latent, k_pe, slots, rows)?,
            Self::Fp8(rows) => kv_append_fp8(latent, k_pe, slots, scale_model(scales), rows)?,
        })
    }
}

/// Rows on a device.
pub enum CacheOperand {
    Bf16(Operand<bf16>),
    Fp8(Operand<u8>),
}

impl CacheOperand {
    const ALIGN: Align = Align(16);

    /// To be read: so many rows, which repeat those there are, `together` of them in a row of the matrix.
    pub(super) fn input(
        arena: &mut Arena<'_>,
        rows: usize,
        together: usize,
        data: &CacheRows,
    ) -> Result<Self> {
        let shape = (rows / together, together * data.columns());
        Ok(match data {
            CacheRows::Bf16(data) => Self::Bf16(arena.repeated(data, shape, Self::ALIGN)?),
            CacheRows::Fp8(data) => Self::Fp8(arena.repeated(data, shape, Self::ALIGN)?),
        })
    }

    /// To be written; otherwise as [`Self::input`].
    pub(super) fn in_out(
        arena: &mut Arena<'_>,
        rows: usize,
        together: usize,
        data: &CacheRows,
    ) -> Result<Self> {
        let shape = (rows / together, together * data.columns());
        Ok(match data {
            CacheRows::Bf16(data) => Self::Bf16(arena.in_out(data, shape, Self::ALIGN)?),
            CacheRows::Fp8(data) => Self::Fp8(arena.in_out(data, shape, Self::ALIGN)?),
        })
    }

    pub(super) fn view(&self) -> deepseek_kernels::Result<KvCache<'_>> {
        Ok(match self {
            Self::Bf16(rows) => KvCache::Bf16(rows.matrix()?),
            Self::Fp8(rows) => KvCache::Fp8(rows.matrix()?),
        })
    }

    pub(super) fn view_mut(&mut self) -> deepseek_kernels::Result<KvCacheMut<'_>> {
        Ok(match self {
            Self::Bf16(rows) => KvCacheMut::Bf16(rows.matrix_mut()?),
            Self::Fp8(rows) => KvCacheMut::Fp8(rows.matrix_mut()?),
        })
    }

    pub(super) fn read(&self) -> Result<Output> {
        match self {
            Self::Bf16(rows) => Output::read("cache", rows),
            Self::Fp8(rows) => Output::read("cache", rows),
        }
    }

    pub(super) fn guarded(&self) -> Result<Check> {
        match self {
            Self::Bf16(rows) => rows.guarded("cache"),
            Self::Fp8(rows) => rows.guarded("cache"),
        }
    }
}
