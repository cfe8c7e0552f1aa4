//! The launches of the KV cache. Made-up slots and positions are below 252: some are in range, some not.

use std::mem::offset_of;

use crate::launches::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::{
    KV_BF16, KV_FP8, KvAppendParams, RopeParams, SCALE_FP32, SCALE_POWER_OF_TWO,
};
use deepseek_kernels::table::mla::{KV_APPEND, ROPE};

pub fn launches() -> Vec<Launch> {
    let formats = [(KV_BF16, SCALE_FP32), (KV_FP8, SCALE_FP32), (KV_FP8, SCALE_POWER_OF_TWO)];
    formats.into_iter().map(append).chain([rope()]).collect()
}

/// The last CTA has five of eight tokens.
fn append((format, scale_format): (u32, u32)) -> Launch {
    let params = Params::of::<KvAppendParams>()
        .u64(offset_of!(KvAppendParams, latent), region(0))
        .u64(offset_of!(KvAppendParams, k_pe), region(1))
        .u64(offset_of!(KvAppendParams, slots), region(2))
        .u64(offset_of!(KvAppendParams, cache), region(3))
        .u64(offset_of!(KvAppendParams, error_words), region(4))
        .u64(offset_of!(KvAppendParams, latent_pitch), 576)
        .u64(offset_of!(KvAppendParams, k_pe_pitch), 72)
        .u64(offset_of!(KvAppendParams, cache_pitch), 1168)
        .u32(offset_of!(KvAppendParams, tokens), 21)
        .u32(offset_of!(KvAppendParams, rows), 200)
        .u32(offset_of!(KvAppendParams, format), format)
        .u32(offset_of!(KvAppendParams, scale_format), scale_format);
    fixed(KV_APPEND.name, 3, KV_APPEND.smem_bytes, params)
}

/// Three CTAs, the last one ragged; heads as in a query of 192 columns, to one of 576.
fn rope() -> Launch {
    let params = Params::of::<RopeParams>()
        .u64(offset_of!(RopeParams, x), region(0))
        .u64(offset_of!(RopeParams, positions), region(1))
        .u64(offset_of!(RopeParams, table), region(2))
        .u64(offset_of!(RopeParams, out), region(3))
        .u64(offset_of!(RopeParams, error_words), region(4))
        .u64(offset_of!(RopeParams, x_token_stride), 5 * 192 + 16)
        .u64(offset_of!(RopeParams, x_head_stride), 192)
        .u64(offset_of!(RopeParams, out_token_stride), 5 * 576)
        .u64(offset_of!(RopeParams, out_head_stride), 576)
        .u64(offset_of!(RopeParams, table_pitch), 68)
        .u32(offset_of!(RopeParams, tokens), 15)
        .u32(offset_of!(RopeParams, heads), 5)
        .u32(offset_of!(RopeParams, table_rows), 200);
    fixed(ROPE.name, 3, ROPE.smem_bytes, params)
}
