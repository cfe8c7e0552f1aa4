//! The launches of quantisers and of the transposition of scales.

use std::mem::offset_of;

use deepseek_kernels::bindings::{
    Quantize1x128Params, Quantize128x128Params, SCALE_FP32, SCALE_POWER_OF_TWO, TransposeScalesParams,
};
use deepseek_kernels::table::quant::{QUANTIZE_1X128, QUANTIZE_128X128, TRANSPOSE_SCALES};

use super::{Launch, Params, fixed, region};

pub fn launches() -> Vec<Launch> {
    let formats = [SCALE_FP32, SCALE_POWER_OF_TWO];
    let quantisers = formats.into_iter().flat_map(|f| [quantize_1x128(f), quantize_128x128(f)]);
    quantisers.chain([transpose_scales()]).collect()
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
