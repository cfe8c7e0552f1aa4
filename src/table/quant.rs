//! The kernels of `cuda/quant`.

use super::{FixedKernel, Kernel};

/// BF16 to E4M3 with one scale per 1x128.
pub const QUANTIZE_1X128: FixedKernel = FixedKernel {
    family: "quant",
    name: "quantize_1x128",
    params: "Quantize1x128Params",
    threads: 256,
    smem_bytes: 0,
};
/// BF16 to E4M3 with one scale per 128x128.
pub const QUANTIZE_128X128: FixedKernel = FixedKernel {
    family: "quant",
    name: "quantize_128x128",
    params: "Quantize128x128Params",
    threads: 256,
    smem_bytes: 32,
};
/// Scales `[m, k/128]` to the layout `[k/128, m]`.
pub const TRANSPOSE_SCALES: FixedKernel = FixedKernel {
    family: "quant",
    name: "transpose_scales",
    params: "TransposeScalesParams",
    threads: 256,
    smem_bytes: 32 * 33 * 4,
};

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    [QUANTIZE_1X128, QUANTIZE_128X128, TRANSPOSE_SCALES].map(FixedKernel::kernel).into_iter()
}
