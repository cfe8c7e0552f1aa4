//! The launches of quantisers and of the transposition of scales.

use std::mem::offset_of;

use deepseek_kernels::bindings::{
    NORM_ROUND_EACH_STEP, NORM_ROUND_ONCE, Quantize1x128Params, Quantize128x128Params, RmsNormParams,
    SCALE_FP32, SCALE_POWER_OF_TWO, TransposeScalesParams,
};
use deepseek_kernels::table::quant::{QUANTIZE_1X128, QUANTIZE_128X128, RMS_NORM, TRANSPOSE_SCALES};

use super::{Launch, Params, fixed, region};

pub fn launches() -> Vec<Launch> {
    let formats = [SCALE_FP32, SCALE_POWER_OF_TWO];
    let quantisers = formats.into_iter().flat_map(|f| [quantize_1x128(f), quantize_128x128(f)]);
    let norms = [rms_norm(NormOutput::Bf16), rms_norm(NormOutput::Codes)];
    quantisers.chain([transpose_scales()]).chain(norms).collect()
}

fn quantize_1x128(scale_format: u32) -> Launch {
    let (m, k_blocks) = (5, 7);
    let params = Params::of::<Quantize1x128Params>()
        .u64(offset_of!(Quantize1x128Params, x), region(0))
        .u64(offset_of!(Quantize1x128Params, q), region(1))
        .u64(offset_of!(Quantize1x128Params, sf), region(2))
        .u64(offset_of!(Quantize1x128Params, error_words), region(3))
        .u64(offset_of!(Quantize1x128Params, x_pitch), 1000)
        .u64(offset_of!(Quantize1x128Params, q_pitch), 912)
        .u64(offset_of!(Quantize1x128Params, sf_row_stride), 1)
        .u64(offset_of!(Quantize1x128Params, sf_group_stride), 8)
        .u32(offset_of!(Quantize1x128Params, m), m)
        .u32(offset_of!(Quantize1x128Params, k_blocks), k_blocks)
        .u32(offset_of!(Quantize1x128Params, scale_format), scale_format);
    let grid = (m * k_blocks).div_ceil(QUANTIZE_1X128.threads / 16);
    fixed(&QUANTIZE_1X128, grid, params)
}

fn quantize_128x128(scale_format: u32) -> Launch {
    let (n, k_blocks) = (150_u32, 2);
    let params = Params::of::<Quantize128x128Params>()
        .u64(offset_of!(Quantize128x128Params, x), region(0))
        .u64(offset_of!(Quantize128x128Params, q), region(1))
        .u64(offset_of!(Quantize128x128Params, sf), region(2))
        .u64(offset_of!(Quantize128x128Params, error_words), region(3))
        .u64(offset_of!(Quantize128x128Params, x_pitch), 264)
        .u64(offset_of!(Quantize128x128Params, q_pitch), 272)
        .u64(offset_of!(Quantize128x128Params, sf_pitch), 5)
        .u32(offset_of!(Quantize128x128Params, n), n)
        .u32(offset_of!(Quantize128x128Params, k_blocks), k_blocks)
        .u32(offset_of!(Quantize128x128Params, scale_format), scale_format);
    fixed(&QUANTIZE_128X128, n.div_ceil(128) * k_blocks, params)
}

fn transpose_scales() -> Launch {
    let (m, k_blocks) = (45_u32, 40_u32);
    let params = Params::of::<TransposeScalesParams>()
        .u64(offset_of!(TransposeScalesParams, sf), region(0))
        .u64(offset_of!(TransposeScalesParams, out), region(1))
        .u64(offset_of!(TransposeScalesParams, sf_pitch), 43)
        .u64(offset_of!(TransposeScalesParams, out_pitch), 48)
        .u32(offset_of!(TransposeScalesParams, m), m)
        .u32(offset_of!(TransposeScalesParams, k_blocks), k_blocks);
    let grid = m.div_ceil(32) * k_blocks.div_ceil(32);
    fixed(&TRANSPOSE_SCALES, grid, params)
}

#[derive(Clone, Copy, PartialEq)]
enum NormOutput {
    Bf16,
    Codes,
}

/// Two rows, whose second pieces half of the threads have; with a residual and one rounding, or neither.
fn rms_norm(output: NormOutput) -> Launch {
    let bf16 = output == NormOutput::Bf16;
    let only = |given: bool, index| if given { region(index) } else { 0 };
    let params = Params::of::<RmsNormParams>()
        .u64(offset_of!(RmsNormParams, x), region(0))
        .u64(offset_of!(RmsNormParams, residual), only(bf16, 1))
        .u64(offset_of!(RmsNormParams, weight), region(2))
        .u64(offset_of!(RmsNormParams, out), only(bf16, 3))
        .u64(offset_of!(RmsNormParams, q), only(!bf16, 4))
        .u64(offset_of!(RmsNormParams, sf), only(!bf16, 5))
        .u64(offset_of!(RmsNormParams, error_words), region(6))
        .u64(offset_of!(RmsNormParams, x_pitch), 3080)
        .u64(offset_of!(RmsNormParams, residual_pitch), 3088)
        .u64(offset_of!(RmsNormParams, out_pitch), 3096)
        .u64(offset_of!(RmsNormParams, q_pitch), 3104)
        .u64(offset_of!(RmsNormParams, sf_pitch), 9)
        .u32(offset_of!(RmsNormParams, hidden), 3072)
        .u32(offset_of!(RmsNormParams, eps), 1e-6_f32.to_bits())
        .u32(offset_of!(RmsNormParams, rounding), if bf16 { NORM_ROUND_ONCE } else { NORM_ROUND_EACH_STEP })
        .u32(offset_of!(RmsNormParams, scale_format), SCALE_POWER_OF_TWO);
    fixed(&RMS_NORM, 2, params)
}
