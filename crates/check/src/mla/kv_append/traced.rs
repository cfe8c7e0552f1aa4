//! The launches of an append that are traced.

use crate::mla::ROPE;
use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::{
    KV_BF16, KV_FP8, KV_FP8_PER_TENSOR, KvAppendParams, SCALE_FP32, SCALE_POWER_OF_TWO,
};
use deepseek_kernels::table::mla::KV_APPEND;
use std::mem::offset_of;

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let formats = [
        (KV_BF16, SCALE_FP32),
        (KV_FP8, SCALE_FP32),
        (KV_FP8, SCALE_POWER_OF_TWO),
        (KV_FP8_PER_TENSOR, SCALE_FP32),
    ];
    let narrow = [ROPE, 0].map(|rope| formats.map(|format| traced_in(format, rope, 1))).concat();
    narrow.into_iter().chain([traced_in(formats[0], ROPE, 2)]).collect()
}

/// The last CTA has five of eight tokens.
fn traced_in((format, scale_format): (u32, u32), rope: usize, words_per_index: u32) -> Launch {
    let params = Params::of::<KvAppendParams>()
        .u64(offset_of!(KvAppendParams, latent), region(0))
        .u64(offset_of!(KvAppendParams, k_pe), region(1))
        .indices(offset_of!(KvAppendParams, slots), region(2), 21, words_per_index)
        .u64(offset_of!(KvAppendParams, cache), region(3))
        .u64(offset_of!(KvAppendParams, error_words), region(4))
        .u64(offset_of!(KvAppendParams, cache_scale), region(5))
        .u64(offset_of!(KvAppendParams, latent_pitch), 576)
        .u64(offset_of!(KvAppendParams, k_pe_pitch), 72)
        .u64(offset_of!(KvAppendParams, cache_pitch), 1168)
        .u64(offset_of!(KvAppendParams, page_stride), 1168 * 13)
        .u32(offset_of!(KvAppendParams, tokens), 21)
        .u32(offset_of!(KvAppendParams, rows), 200)
        .u32(offset_of!(KvAppendParams, rope), rope as u32)
        .u32(offset_of!(KvAppendParams, page_size), 12)
        .u32(offset_of!(KvAppendParams, format), format)
        .u32(offset_of!(KvAppendParams, scale_format), scale_format);
    fixed(&KV_APPEND, 3, params)
}
