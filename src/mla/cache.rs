//! The cache of multi-head latent attention: one row per token, the latent vector that all heads share and, if the position is
//! not in it, the rotated key beside it.

use std::{fmt, ptr};

use half::bf16;

use crate::error::{Error, Result};
use crate::launch::{KernelParams, Launch, Layout, Operand};
pub use crate::table::mla::KvFormat;
use crate::table::mla::{KV_SCALE_BLOCK, MLA_LATENT, MLA_ROPE};
use crate::tensor::{Extent, Matrix, MatrixMut, Vector};

/// Elements of a token's latent vector, from which keys and values come.
pub(crate) const LATENT: usize = MLA_LATENT as usize;
/// Elements of a token's rotated key.
pub(crate) const ROPE: usize = MLA_ROPE as usize;

/// Fails unless a key has a position of that many elements, or none.
pub(super) fn check_rope(rope: usize) -> Result<()> {
    if rope == 0 || rope == ROPE {
        return Ok(());
    }
    Err(Error::out_of_range("rope", "0 or 64", rope))
}

/// Bytes that a row's address is a multiple of.
const ROW_ALIGN: u64 = 16;

impl KvFormat {
    /// Elements of a token's latent vector.
    pub const LATENT: usize = LATENT;
    /// Elements of a token's rotated key, if it has one.
    pub const ROPE: usize = ROPE;

    /// Columns of a cache whose keys have so many rotated elements, 64 or 0, in its own elements: 576 or 512 BF16, 656 or 528
    /// bytes, with a per-tensor scale 576 or 512.
    pub const fn columns(self, rope: usize) -> usize {
        match self {
            Self::Bf16 | Self::Fp8PerTensor => LATENT + rope,
            Self::Fp8 => {
                LATENT + LATENT / KV_SCALE_BLOCK as usize * size_of::<f32>() + rope * size_of::<bf16>()
            }
        }
    }

    /// Bytes of a row, without what may lie between rows.
    pub const fn row_bytes(self, rope: usize) -> usize {
        self.columns(rope) * self.element_bytes()
    }

    const fn element_bytes(self) -> usize {
        match self {
            Self::Bf16 => size_of::<bf16>(),
            Self::Fp8 | Self::Fp8PerTensor => size_of::<u8>(),
        }
    }
}

/// The rows of a cache, as a plan knows them.
#[derive(Debug, Clone, Copy)]
pub(super) struct CacheRows {
    pub format: KvFormat,
    /// Elements of a rotated key: 64, or 0.
    pub rope: usize,
    pub rows: usize,
    /// Keys of a page; none: whatever the operand has.
    pub page_size: Option<usize>,
}

impl CacheRows {
    /// Fails if the operand's rows are of another format.
    fn layout(self, format: KvFormat, got: Extent) -> Result<Layout> {
        if format != self.format {
            return Err(Error::other_kind("cache", self.format, format));
        }
        let axes = match self.columns() {
            512 => "cache [pages * page_size, 512] or [pages, page_size * 512]",
            528 => "cache [pages * page_size, 528] or [pages, page_size * 528]",
            576 => "cache [pages * page_size, 576] or [pages, page_size * 576]",
            _ => "cache [pages * page_size, 656] or [pages, page_size * 656]",
        };
        let keys = self.keys_of_a_row(got);
        let shape = [self.rows / keys, keys.saturating_mul(self.columns())];
        Ok(Layout::matrix(axes, shape).aligned(ROW_ALIGN))
    }

    fn columns(self) -> usize {
        self.format.columns(self.rope)
    }

    /// Those of a page, if a matrix of pages fits as well as one of keys.
    fn keys_of_a_row(self, got: Extent) -> usize {
        let keys = got.columns / self.columns();
        let fits = keys > 1 && got.rows.saturating_mul(keys) == self.rows;
        if fits && self.page_size.is_none_or(|page_size| page_size == keys) { keys } else { 1 }
    }

    fn operand<A>(self, operand: Operand<A>, scale: *const f32) -> CacheOperand<A> {
        let Extent { pitch, .. } = operand.extent;
        let stride = |elements: usize| (elements as u64).saturating_mul(self.format.element_bytes() as u64);
        match self.keys_of_a_row(operand.extent) {
            1 => {
                let page_size = self.page_size.unwrap_or(self.rows).max(1);
                let page_stride = stride(pitch).saturating_mul(page_size as u64);
                CacheOperand { operand, scale, page_size, page_stride, pitch: stride(pitch) }
            }
            page_size => CacheOperand {
                operand,
                scale,
                page_size,
                page_stride: stride(pitch),
                pitch: stride(self.columns()),
            },
        }
    }
}

/// A cache as an operand. Strides are bytes; they saturate, because that of a single row or page is moot, however large.
pub(super) struct CacheOperand<A> {
    pub operand: Operand<A>,
    /// That of the whole cache; null where there is none.
    pub scale: *const f32,
    /// Keys of a page, one at least.
    pub page_size: usize,
    /// From page to page.
    pub page_stride: u64,
    /// From key to key of a page.
    pub pitch: u64,
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "BF16 rows",
            Self::Fp8 => "FP8 rows",
            Self::Fp8PerTensor => "FP8 rows with a per-tensor scale",
        })
    }
}

/// A cache that a kernel reads: a matrix of keys, in which key `j` of page `p` is row `p * page_size + j`, or one whose rows are
/// pages, each of keys that follow one another. Its pitch is then what lies between pages: of a pool
/// `[pages, layers, page_size, 576]` a layer is the slice from its first key on, with a pitch of
/// `layers * page_size * 576`. Address and pitch are multiples of 16 bytes. Keys without a position have 64 BF16
/// less, or codes.
#[derive(Debug, Clone)]
pub enum KvCache<'a> {
    /// `[pages * page_size, 576]`, or `[pages, page_size * 576]`; 512 without a position.
    Bf16(Matrix<'a, bf16>),
    /// `[pages * page_size, 656]` bytes, or `[pages, page_size * 656]`; 528 without a position.
    Fp8(Matrix<'a, u8>),
    /// As [`KvFormat::Fp8PerTensor`] has it.
    Fp8PerTensor {
        /// `[pages * page_size, 576]` bytes, or `[pages, page_size * 576]`; 512 without a position.
        rows: Matrix<'a, u8>,
        /// `[1]`, on the device. A zero makes every value 0, a NaN or Inf what it makes of a product.
        scale: Vector<'a, f32>,
    },
}

/// The layout of the scale of a whole cache.
fn scale_layout() -> Layout {
    Layout::vector("cache scale [1]", 1)
}

impl KvCache<'_> {
    /// As an operand of a launch.
    pub(super) fn read<'l, P: KernelParams>(
        &'l self,
        launch: &mut Launch<'l, P>,
        rows: CacheRows,
    ) -> Result<CacheOperand<*const u8>> {
        let mut per_tensor = ptr::null();
        let operand = match self {
            Self::Bf16(matrix) => {
                launch.read(matrix, rows.layout(KvFormat::Bf16, matrix.extent)?)?.map(<*const u16>::cast)
            }
            Self::Fp8(matrix) => launch.read(matrix, rows.layout(KvFormat::Fp8, matrix.extent)?)?,
            Self::Fp8PerTensor { rows: matrix, scale } => {
                let layout = rows.layout(KvFormat::Fp8PerTensor, matrix.extent)?;
                per_tensor = launch.read(scale, scale_layout())?.pointer;
                launch.read(matrix, layout)?
            }
        };
        Ok(rows.operand(operand, per_tensor))
    }
}

/// A cache that a kernel writes; otherwise as [`KvCache`].
#[derive(Debug)]
pub enum KvCacheMut<'a> {
    /// `[pages * page_size, 576]`, or `[pages, page_size * 576]`; 512 without a position.
    Bf16(MatrixMut<'a, bf16>),
    /// `[pages * page_size, 656]` bytes, or `[pages, page_size * 656]`; 528 without a position.
    Fp8(MatrixMut<'a, u8>),
    /// As [`KvFormat::Fp8PerTensor`] has it.
    Fp8PerTensor {
        /// `[pages * page_size, 576]` bytes, or `[pages, page_size * 576]`; 512 without a position.
        rows: MatrixMut<'a, u8>,
        /// `[1]`, on the device: that by which everything in the cache was divided.
        scale: Vector<'a, f32>,
    },
}

impl KvCacheMut<'_> {
    /// As an operand of a launch.
    pub(super) fn write<'l, P: KernelParams>(
        &'l mut self,
        launch: &mut Launch<'l, P>,
        rows: CacheRows,
    ) -> Result<CacheOperand<*mut u8>> {
        let mut per_tensor = ptr::null();
        let operand = match self {
            Self::Bf16(matrix) => {
                let layout = rows.layout(KvFormat::Bf16, matrix.extent)?;
                launch.write(matrix, layout)?.map(<*mut u16>::cast)
            }
            Self::Fp8(matrix) => {
                let layout = rows.layout(KvFormat::Fp8, matrix.extent)?;
                launch.write(matrix, layout)?
            }
            Self::Fp8PerTensor { rows: matrix, scale } => {
                let layout = rows.layout(KvFormat::Fp8PerTensor, matrix.extent)?;
                per_tensor = launch.read(scale, scale_layout())?.pointer;
                launch.write(matrix, layout)?
            }
        };
        Ok(rows.operand(operand, per_tensor))
    }
}
