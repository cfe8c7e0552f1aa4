//! The kernels of `cuda/quant`.

use super::{Constant, FixedKernel, Kernel, PIECE, WARP};

/// Elements along K that share a scale; of weights, along N too.
pub const BLOCK: u32 = 128;

/// What every kernel that quantises takes for granted, as the host does.
pub(super) const BLOCKS: &[Constant] = &[("quant::kQuantizeBlock", BLOCK), ("kPieceElements", PIECE)];

/// 1x128 blocks of a CTA: every thread has a piece of one.
pub const fn blocks_per_cta(kernel: FixedKernel) -> u64 {
    (kernel.threads / (BLOCK / PIECE)) as u64
}

/// CTAs of a kernel that quantises 1x128: it counts blocks in 32 bits.
pub const fn max_ctas(kernel: FixedKernel) -> u64 {
    u32::MAX as u64 / blocks_per_cta(kernel)
}

/// Rows whose block a lane has a piece of at the same time.
pub const QUANTIZE_1X128_ROWS: u32 = 4;
/// BF16 to E4M3 with one scale per 1x128.
pub const QUANTIZE_1X128: FixedKernel =
    FixedKernel::new("quant", "quantize_1x128", "Quantize1x128Params", 256, BLOCKS)
        .with_constants(&[("kRows", QUANTIZE_1X128_ROWS)]);

const QUANTIZE_128X128_THREADS: u32 = 256;
/// BF16 to E4M3 with one scale per 128x128: a number per warp in shared memory.
pub const QUANTIZE_128X128: FixedKernel =
    FixedKernel::new("quant", "quantize_128x128", "Quantize128x128Params", QUANTIZE_128X128_THREADS, BLOCKS)
        .with_storage("Quantize128x128Storage", QUANTIZE_128X128_THREADS / WARP * 4);

/// Elements of a row that a thread dequantises.
pub const DEQUANTIZE_ELEMENTS: u32 = 2 * PIECE;
/// E4M3 with either kind of scales to BF16.
pub const DEQUANTIZE: FixedKernel = FixedKernel::new("quant", "dequantize", "DequantizeParams", 256, BLOCKS);

/// Rows and columns of a tile that a CTA transposes.
pub const TRANSPOSE_TILE: u32 = 32;
/// Scales `[m, k/128]` to the layout `[k/128, m]`.
pub const TRANSPOSE_SCALES: FixedKernel =
    FixedKernel::new("quant", "transpose_scales", "TransposeScalesParams", 256, &[])
        .with_constants(&[("kTile", TRANSPOSE_TILE)])
        .with_storage("TransposeScalesStorage", TRANSPOSE_TILE * (TRANSPOSE_TILE + 1) * 4);

const RMS_NORM_THREADS: u32 = 256;
/// Pieces of a row that a thread holds in registers.
const RMS_NORM_PIECES: u32 = 8;
/// The longest row.
pub const RMS_NORM_MAX_HIDDEN: u32 = RMS_NORM_THREADS * RMS_NORM_PIECES * PIECE;
/// RMSNorm, BF16 to BF16 or to E4M3 with one scale per 1x128.
pub const RMS_NORM: FixedKernel =
    FixedKernel::new("quant", "rms_norm", "RmsNormParams", RMS_NORM_THREADS, BLOCKS)
        .with_constants(&[("kMaxPieces", RMS_NORM_PIECES)])
        .with_storage("RmsNormStorage", RMS_NORM_THREADS / WARP * 4);

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    [QUANTIZE_1X128, QUANTIZE_128X128, DEQUANTIZE, TRANSPOSE_SCALES, RMS_NORM]
        .map(FixedKernel::kernel)
        .into_iter()
}
