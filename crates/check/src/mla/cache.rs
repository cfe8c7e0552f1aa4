//! Rows of a KV cache in either format.

use anyhow::Result;
use deepseek_kernels::bf16;
use deepseek_kernels::mla::{KvCache, KvCacheMut, KvFormat};
use deepseek_kernels::quant::ScaleFormat;
use oracles::mla::{Appended, NewTokens, kv_append_bf16, kv_append_fp8, kv_append_fp8_per_tensor};

use super::LATENT;
use crate::judge::Check;
use crate::memory::{Align, Arena, Operand, Output, Scalar};
use crate::quant::scale_model;

/// Rows on the host, `[_, KvFormat::columns]`.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheRows {
    Bf16(Vec<bf16>),
    Fp8(Vec<u8>),
    Fp8PerTensor { rows: Vec<u8>, scale: f32 },
}

impl CacheRows {
    /// So many rows of poison, NaN in every code, scale and value; but for keys `[_, 512 + rope]` in those that `slots` name, as
    /// FlashMLA stores them, or under the scale with which none saturates.
    ///
    /// # Errors
    /// Unless there is a slot for each key.
    pub fn of_keys(format: KvFormat, rope: usize, rows: usize, keys: &[bf16], slots: &[i32]) -> Result<Self> {
        let elements = rows * format.columns(rope);
        let mut cache = match format {
            KvFormat::Bf16 => Self::Bf16(vec![bf16::POISON; elements]),
            KvFormat::Fp8 => Self::Fp8(vec![u8::POISON; elements]),
            KvFormat::Fp8PerTensor => {
                Self::Fp8PerTensor { rows: vec![u8::POISON; elements], scale: scale_of(keys) }
            }
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
            Self::Fp8PerTensor { rows, scale } => kv_append_fp8_per_tensor(tokens, *scale, rows)?,
        })
    }
}

/// That with which the greatest finite value becomes the greatest code.
pub(super) fn scale_of(values: &[bf16]) -> f32 {
    let finite = values.iter().map(|x| x.to_f32().abs()).filter(|x| x.is_finite());
    finite.fold(f32::MIN_POSITIVE, f32::max) / 448.0
}

/// Rows on a device.
pub enum CacheOperand {
    Bf16(Operand<bf16>),
    Fp8(Operand<u8>),
    Fp8PerTensor { rows: Operand<u8>, scale: Operand<f32> },
}

impl CacheOperand {
    const ALIGN: Align = Align(16);

    /// To be read: rows and columns of the matrix, which repeats the rows there are.
    pub(super) fn input(arena: &mut Arena<'_>, shape: (usize, usize), data: &CacheRows) -> Result<Self> {
        Ok(match data {
            CacheRows::Bf16(data) => Self::Bf16(arena.repeated(data, shape, Self::ALIGN)?),
            CacheRows::Fp8(data) => Self::Fp8(arena.repeated(data, shape, Self::ALIGN)?),
            CacheRows::Fp8PerTensor { rows, scale } => Self::Fp8PerTensor {
                rows: arena.repeated(rows, shape, Self::ALIGN)?,
                scale: arena.list(&[*scale])?,
            },
        })
    }

    /// To be written; otherwise as [`Self::input`].
    pub(super) fn in_out(arena: &mut Arena<'_>, shape: (usize, usize), data: &CacheRows) -> Result<Self> {
        Ok(match data {
            CacheRows::Bf16(data) => Self::Bf16(arena.in_out(data, shape, Self::ALIGN)?),
            CacheRows::Fp8(data) => Self::Fp8(arena.in_out(data, shape, Self::ALIGN)?),
            CacheRows::Fp8PerTensor { rows, scale } => Self::Fp8PerTensor {
                rows: arena.in_out(rows, shape, Self::ALIGN)?,
                scale: arena.list(&[*scale])?,
            },
        })
    }

    pub(super) fn view(&self) -> deepseek_kernels::Result<KvCache<'_>> {
        Ok(match self {
            Self::Bf16(rows) => KvCache::Bf16(rows.matrix()?),
            Self::Fp8(rows) => KvCache::Fp8(rows.matrix()?),
            Self::Fp8PerTensor { rows, scale } => {
                KvCache::Fp8PerTensor { rows: rows.matrix()?, scale: scale.vector()? }
            }
        })
    }

    pub(super) fn view_mut(&mut self) -> deepseek_kernels::Result<KvCacheMut<'_>> {
        Ok(match self {
            Self::Bf16(rows) => KvCacheMut::Bf16(rows.matrix_mut()?),
            Self::Fp8(rows) => KvCacheMut::Fp8(rows.matrix_mut()?),
            Self::Fp8PerTensor { rows, scale } => {
                KvCacheMut::Fp8PerTensor { rows: rows.matrix_mut()?, scale: scale.vector()? }
            }
        })
    }

    pub(super) fn read(&self) -> Result<Output> {
        match self {
            Self::Bf16(rows) => Output::read("cache", rows),
            Self::Fp8(rows) | Self::Fp8PerTensor { rows, .. } => Output::read("cache", rows),
        }
    }

    pub(super) fn guarded(&self) -> Result<Check> {
        match self {
            Self::Bf16(rows) => rows.guarded("cache"),
            Self::Fp8(rows) | Self::Fp8PerTensor { rows, .. } => rows.guarded("cache"),
        }
    }
}
