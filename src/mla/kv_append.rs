//! New tokens into the KV cache of latent attention.

use half::bf16;

use super::cache::{CacheRows, KvCacheMut, KvFormat, LATENT, ROPE, check_rope};
use crate::device::bindings::{KV_BF16, KV_FP8, KV_FP8_PER_TENSOR, KvAppendParams};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, KernelRow, Launch, Layout, MAX_DIM, check_given, check_limit, optional};
use crate::quant::ScaleFormat;
use crate::setters::setters;
use crate::table::mla::{self, KV_APPEND_TOKENS};
use crate::tensor::{Indices, Matrix};

const KV_APPEND: KernelRow<KvAppendParams> = KernelRow::of(mla::KV_APPEND);

/// Shape of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KvAppendSpec {
    /// New tokens, of any number of sequences; 0 included.
    pub tokens: usize,
    /// Rows of the cache, pages * page_size: any number, 0 included.
    pub rows: usize,
    /// What a row holds.
    pub format: KvFormat,
    /// Elements of the rotated key beside the latent vector: 64, or 0 where there is none.
    pub rope: usize,
    /// How the scales of [`KvFormat::Fp8`] are chosen.
    pub scale_format: ScaleFormat,
}

impl KvAppendSpec {
    /// With rotated keys, and power-of-two scales, as FlashMLA stores them.
    pub const fn new(tokens: usize, rows: usize, format: KvFormat) -> Self {
        Self { tokens, rows, format, rope: ROPE, scale_format: ScaleFormat::PowerOfTwo }
    }
}

setters!(KvAppendSpec { rope: usize, scale_format: ScaleFormat });

/// Operands of an append. Addresses and pitches are multiples of 16 bytes.
#[derive(Debug)]
pub struct KvAppendArgs<'a> {
    /// `[tokens, 512]`, after its norm.
    pub latent: Matrix<'a, bf16>,
    /// `[tokens, 64]`, rotated. Both may be columns of one matrix of 576. None if, and only if, the spec's `rope` is 0.
    pub k_pe: Option<Matrix<'a, bf16>>,
    /// `[tokens]`: the row of every token, `page * page_size + key`, -1 for none.
    ///
    /// No row may be named twice. If one is, nothing outside it suffers, but it holds bytes of both tokens; the emulator
    /// fails with [`Error::Emulated`](crate::Error::Emulated), because the order of the writes is left to chance.
    pub slots: Indices<'a>,
    /// Rows that no slot names are not touched.
    pub cache: KvCacheMut<'a>,
}

/// A planned append. BF16 rows are copies. FP8 rows hold, for every 128 values of the latent vector,
/// `scale = max(amax / 448, 1e-4)` of the finite ones, rounded up to a power of two or not, and the codes
/// `e4m3(x / scale)`, all in FP32, each operation rounded once; the rotated key is copied. The bits of a row depend on its
/// token alone.
///
/// With a per-tensor scale ([`KvFormat::Fp8PerTensor`]) latent vector and key are codes `e4m3(x / scale)`, the quotient in FP32,
/// rounded once, then saturated: what is beyond 448 times the scale becomes that, as a static scale has it. A negative scale
/// divides like any other.
///
/// The floor is under the scale, not under amax as in [`Quantize1x128`](crate::quant::Quantize1x128), and the code is a quotient,
/// not a product: so FlashMLA defines this layout.
#[derive(Debug)]
pub struct KvAppend {
    device: Device,
    kernel: Kernel<KvAppendParams>,
    spec: KvAppendSpec,
    grid: u32,
}

impl KvAppend {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: KvAppendSpec) -> Result<Self> {
        check_limit("tokens", spec.tokens as u64, MAX_DIM)?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_rope(spec.rope)?;
        let grid = (spec.tokens as u32).div_ceil(KV_APPEND_TOKENS);
        Ok(Self { device: device.clone(), kernel: KV_APPEND.load(device)?, spec, grid })
    }

    /// Enqueues the append. A token whose slot is no row is not stored, and [`Device::poll_error`] tells of it unless the
    /// slot is -1, as it does of Inf (saturated) and NaN (kept) that are quantised, and of a per-tensor scale of 0, Inf or NaN
    /// (quotients are codes all the same: a NaN stays one).
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: KvAppendArgs<'_>) -> Result<()> {
        let KvAppendSpec { tokens, rows, format, rope, scale_format } = self.spec;
        let (one, none) = ("one, keys have a position of 64 elements", "none, keys have no position");
        check_given("k_pe", args.k_pe.is_some(), rope > 0, one, none)?;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let latent = Layout::matrix("latent [tokens, 512]", [tokens, LATENT]).aligned(16);
        let latent = launch.read(&args.latent, latent)?;
        let k_pe_layout = Layout::matrix("k_pe [tokens, 64]", [tokens, ROPE]).aligned(16);
        let k_pe = optional(args.k_pe.as_ref(), |k_pe| launch.read(k_pe, k_pe_layout))?;
        let slots = launch.indices(&args.slots, Layout::vector("slots [tokens]", tokens))?;
        let cache = args.cache.write(&mut launch, CacheRows { format, rope, rows, page_size: None })?;
        let params = KvAppendParams {
            latent: latent.pointer,
            k_pe: k_pe.pointer,
            slots,
            cache_scale: cache.scale,
            cache: cache.operand.pointer,
            error_words: launch.error_words(),
            latent_pitch: latent.pitch(),
            k_pe_pitch: k_pe.pitch(),
            cache_pitch: cache.pitch,
            page_stride: cache.page_stride,
            tokens: tokens as u32,
            rows: rows as u32,
            rope: rope as u32,
            page_size: cache.page_size as u32,
            format: match format {
                KvFormat::Bf16 => KV_BF16,
                KvFormat::Fp8 => KV_FP8,
                KvFormat::Fp8PerTensor => KV_FP8_PER_TENSOR,
            },
            scale_format: scale_format.code(),
        };
        launch.run(self.grid, &params)
    }
}
