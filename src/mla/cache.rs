//! The cache of multi-head latent attention: one row per token, the latent vector that all heads share and the rotated
//! key beside it.

use std::fmt;

use half::bf16;

use crate::error::{Error, Result};
use crate::launch::{KernelParams, Launch, Layout, Operand};
use crate::table::mla::{KV_SCALE_BLOCK, MLA_LATENT, MLA_ROPE};
use crate::tensor::{Matrix, MatrixMut};

/// Elements of a token's latent vector, from which keys and values come.
pub(crate) const LATENT: usize = MLA_LATENT as usize;
/// Elements of a token's rotated key.
pub(crate) const ROPE: usize = MLA_ROPE as usize;

/// Bytes that a row's address is a multiple of.
const ROW_ALIGN: u64 = 16;

/// What a row of the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 576 BF16: 512 of the latent vector, 64 of the rotated key.
    Bf16,
    /// 656 bytes: 512 E4M3 codes of the latent vector, 4 FP32 scales (one per 128 codes, in the machine's byte order),
    /// 64 BF16 of the rotated key. A value is `bf16(code * scale)`, the product rounded to FP32 first.
    Fp8,
}

impl KvFormat {
    /// Elements of a token's latent vector.
    pub const LATENT: usize = LATENT;
    /// Elements of a token's rotated key.
    pub const ROPE: usize = ROPE;

    /// Columns of a cache, in its own elements: 576 BF16 or 656 bytes.
    pub const fn columns(self) -> usize {
        match self {
            Self::Bf16 => LATENT + ROPE,
            Self::Fp8 => {
                LATENT + LATENT / KV_SCALE_BLOCK as usize * size_of::<f32>() + ROPE * size_of::<bf16>()
            }
        }
    }

    /// Bytes of a row, without what may lie between rows.
    pub const fn row_bytes(self) -> usize {
        self.columns() * self.element_bytes()
    }

    /// Bytes from one row of an operand to the next. Saturates: the pitch of a single row is moot, however large.
    pub(super) fn pitch_bytes<A>(self, cache: &Operand<A>) -> u64 {
        cache.pitch().saturating_mul(self.element_bytes() as u64)
    }

    const fn element_bytes(self) -> usize {
        match self {
            Self::Bf16 => size_of::<bf16>(),
            Self::Fp8 => size_of::<u8>(),
        }
    }

    /// Of a cache of this format with `rows` rows, where a plan expects another format perhaps.
    fn layout(self, expected: Self, rows: usize) -> Result<Layout> {
        if self != expected {
            return Err(Error::other_kind("cache", expected, self));
        }
        let axes = match self {
            Self::Bf16 => "cache [pages * page_size, 576]",
            Self::Fp8 => "cache [pages * page_size, 656]",
        };
        Ok(Layout::matrix(axes, [rows, self.columns()]).aligned(ROW_ALIGN))
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "BF16 rows",
            Self::Fp8 => "FP8 rows",
        })
    }
}

/// A cache that a kernel reads. Key `j` of page `p` is row `p * page_size + j`; address and row pitch are multiples of
/// 16 bytes.
#[derive(Debug, Clone)]
pub enum KvCache<'a> {
    /// `[pages * page_size, 576]`.
    Bf16(Matrix<'a, bf16>),
    /// `[pages * page_size, 656]` bytes.
    Fp8(Matrix<'a, u8>),
}

impl KvCache<'_> {
    /// As an operand of a launch, which has `rows` rows of `format`. The pitch is in elements of the format.
    pub(super) fn read<'l, P: KernelParams>(
        &'l self,
        launch: &mut Launch<'l, P>,
        format: KvFormat,
        rows: usize,
    ) -> Result<Operand<*const u8>> {
        match self {
            Self::Bf16(matrix) => {
                Ok(launch.read(matrix, KvFormat::Bf16.layout(format, rows)?)?.map(<*const u16>::cast))
            }
            Self::Fp8(matrix) => launch.read(matrix, KvFormat::Fp8.layout(format, rows)?),
        }
    }
}

/// A cache that a kernel writes; otherwise as [`KvCache`].
#[derive(Debug)]
pub enum KvCacheMut<'a> {
    /// `[pages * page_size, 576]`.
    Bf16(MatrixMut<'a, bf16>),
    /// `[pages * page_size, 656]` bytes.
    Fp8(MatrixMut<'a, u8>),
}

impl KvCacheMut<'_> {
    /// As an operand of a launch, which has `rows` rows of `format`. The pitch is in elements of the format.
    pub(super) fn write<'l, P: KernelParams>(
        &'l mut self,
        launch: &mut Launch<'l, P>,
        format: KvFormat,
        rows: usize,
    ) -> Result<Operand<*mut u8>> {
        match self {
            Self::Bf16(matrix) => {
                Ok(launch.write(matrix, KvFormat::Bf16.layout(format, rows)?)?.map(<*mut u16>::cast))
            }
            Self::Fp8(matrix) => launch.write(matrix, KvFormat::Fp8.layout(format, rows)?),
        }
    }
}
