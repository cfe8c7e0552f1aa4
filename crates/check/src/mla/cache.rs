//! Rows of a KV cache in either format.

use anyhow::Result;
use deepseek_kernels::bf16;
use deepseek_kernels::mla::{KvCache, KvCacheMut, KvFormat};
use deepseek_kernels::quant::ScaleFormat;
use oracles::mla::{Appended, NewTokens, kv_append_bf16, kv_append_fp8};

use super::LATENT;
use crate::judge::Check;
use crate::memory::{Align, Arena, Operand, Output, Scalar};
use crate::quant::scale_model;

/// Rows on the host, `[_, KvFormat::columns]`.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheRows {
    Bf16(Vec<bf16>),
    Fp8(Vec<u8>),
}

impl CacheRows {
    /// So many rows of poison, NaN in every code, scale and value; but for keys `[_, 512 + rope]` in those that `slots` name, as
    /// FlashMLA stores them.
    ///
    /// # Errors
    /// Unless there is a slot for each key.
    pub fn of_keys(format: KvFormat, rope: usize, rows: usize, keys: &[bf16], slots: &[i32]) -> Result<Self> {
        let elements = rows * format.columns(rope);
        let mut cache = match format {
            KvFormat::Bf16 => Self::Bf16(vec![bf16::POISON; elements]),
            KvFormat::Fp8 => Self::Fp8(vec![u8::POISON; elements]),
        };
        let (latent, k_pe): (Vec<_>, Vec<_>) =
            keys.chunks_exact(LATENT + rope).map(|key| key.split_at(LATENT)).unzip();
        let (latent, k_pe) = (&latent.concat(), &k_pe.concat());
        cache.append(&NewTokens { latent, k_pe, rope, slots }, ScaleFormat::PowerOfTwo)?;
        Ok(cache)
    }

    /// What an append makes of the rows, by its reference.
    ///
    /// # Errors
    /// Unless tokens and slots are as many.
    pub fn append(&mut self, tokens: &NewTokens<'_>, scales: ScaleFormat) -> Result<Appended> {
        Ok(match self {
            Self::Bf16(rows) => kv_append_bf16(tokens, rows)?,
            Self::Fp8(rows) => kv_append_fp8(tokens, scale_model(scales), rows)?,
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

    /// To be read: rows and columns of the matrix, which repeats the rows there are.
    pub(super) fn input(arena: &mut Arena<'_>, shape: (usize, usize), data: &CacheRows) -> Result<Self> {
        Ok(match data {
            CacheRows::Bf16(data) => Self::Bf16(arena.repeated(data, shape, Self::ALIGN)?),
            CacheRows::Fp8(data) => Self::Fp8(arena.repeated(data, shape, Self::ALIGN)?),
        })
    }

    /// To be written; otherwise as [`Self::input`].
    pub(super) fn in_out(arena: &mut Arena<'_>, shape: (usize, usize), data: &CacheRows) -> Result<Self> {
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
