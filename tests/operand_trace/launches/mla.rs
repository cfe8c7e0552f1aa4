//! The launches of MLA: attention, and what stands around it. Made-up slots and positions are below 252: some are in range,
//! some not.

use std::mem::offset_of;

use deepseek_kernels::bindings::{
    HeadGemmParams, KV_BF16, KV_FP8, KvAppendParams, MergePart, MergeStatesParams, MlaCombineParams,
    MlaDecodeParams, MlaScheduleParams, RopeParams, SCALE_FP32, SCALE_POWER_OF_TWO,
};
use deepseek_kernels::table::FixedKernel;
use deepseek_kernels::table::mla::{
    KV_APPEND, MERGE_STATES, MLA_ABSORB_OUTPUT, MLA_ABSORB_QUERY, MLA_COMBINE, MLA_INSTANCES, MLA_SCHEDULE,
    MlaInstance, ROPE,
};

use super::{Launch, Params, WORDS_PER_INDEX, fixed, region};

pub fn launches() -> Vec<Launch> {
    let merges = [(0, 0), (1, 0), (0, 1)].map(|(o_is_f32, infinity)| merge_states(o_is_f32, infinity));
    // Two tiles of tokens, two of columns, or one; two heads.
    let absorbs = [absorb(&MLA_ABSORB_QUERY, 8), absorb(&MLA_ABSORB_OUTPUT, 4)];
    // A page table of either width, or none.
    let decodes = MLA_INSTANCES.iter().flat_map(|instance| [1, 2, 0].map(|words| decode(instance, words)));
    let formats = [(KV_BF16, SCALE_FP32), (KV_FP8, SCALE_FP32), (KV_FP8, SCALE_POWER_OF_TWO)];
    let appends = formats.map(|format| append(format, 1)).into_iter().chain([append(formats[0], 2)]);
    let around = absorbs.into_iter().chain(merges).chain(appends).chain(WORDS_PER_INDEX.map(rope));
    around.chain(decodes).chain(WORDS_PER_INDEX.map(schedule)).chain([combine()]).collect()
}

fn absorb(kernel: &FixedKernel, grid: u32) -> Launch {
    let params = Params::of::<HeadGemmParams>().u32(offset_of!(HeadGemmParams, tokens), 70);
    fixed(kernel, grid, params)
}

/// The last CTA is ragged.
fn merge_states(o_is_f32: u32, infinity_is_empty: u32) -> Launch {
    let params = Params::of::<MergeStatesParams>()
        .u64(offset_of!(MergeStatesParams, out), region(0))
        .u64(offset_of!(MergeStatesParams, out_lse), region(1))
        .u64(offset_of!(MergeStatesParams, out_pitch), 520)
        .u64(offset_of!(MergeStatesParams, out_lse_pitch), 7)
        .u32(offset_of!(MergeStatesParams, rows), 12)
        .u32(offset_of!(MergeStatesParams, heads), 4)
        .u32(offset_of!(MergeStatesParams, o_is_f32), o_is_f32)
        .u32(offset_of!(MergeStatesParams, infinity_is_empty), infinity_is_empty);
    let part = |params: Params, i: usize| {
        let at = offset_of!(MergeStatesParams, part) + i * size_of::<MergePart>();
        params
            .u64(at + offset_of!(MergePart, o), region(2 + 2 * i as u64))
            .u64(at + offset_of!(MergePart, lse), region(3 + 2 * i as u64))
            .u64(at + offset_of!(MergePart, o_pitch), 512 + 8 * i as u64)
            .u64(at + offset_of!(MergePart, lse_pitch), 5 + i as u64)
    };
    fixed(&MERGE_STATES, 3, part(part(params, 0), 1))
}

fn schedule(words_per_index: u32) -> Launch {
    let params = Params::of::<MlaScheduleParams>()
        .indices(offset_of!(MlaScheduleParams, lengths), region(0), 130, words_per_index)
        .u64(offset_of!(MlaScheduleParams, tables.lengths), region(1))
        .u64(offset_of!(MlaScheduleParams, tables.split_offsets), region(2))
        .u64(offset_of!(MlaScheduleParams, tables.items), region(3))
        .u64(offset_of!(MlaScheduleParams, error_words), region(4))
        .u32(offset_of!(MlaScheduleParams, batch), 130)
        .u32(offset_of!(MlaScheduleParams, capacity), 200)
        .u32(offset_of!(MlaScheduleParams, split_keys), 64);
    fixed(&MLA_SCHEDULE, 2, params)
}

/// Two workers, each on two row tiles or clusters of them, of which the last tile is not full.
///
/// `split_blocks` makes every split begin at key 0, modulo 2^32: what lengths are made up then decides the number of
/// blocks and the tail. The offsets begin where there are four items, the second of them the only split of a sequence.
fn decode(instance: &MlaInstance, words_per_page: u32) -> Launch {
    let row_tiles = 2 * instance.cluster;
    let page_table = if words_per_page == 0 { 0 } else { region(1) };
    let params = Params::of::<MlaDecodeParams>()
        .u64(offset_of!(MlaDecodeParams, kv), region(0))
        .indices(offset_of!(MlaDecodeParams, page_table), page_table, 3, words_per_page)
        .u64(offset_of!(MlaDecodeParams, tables.lengths), region(2))
        .u64(offset_of!(MlaDecodeParams, tables.split_offsets), region(3) + 4 * 118)
        .u64(offset_of!(MlaDecodeParams, tables.items), region(4))
        .u64(offset_of!(MlaDecodeParams, lse), region(5))
        .u64(offset_of!(MlaDecodeParams, part_out), region(6))
        .u64(offset_of!(MlaDecodeParams, part_state), region(7))
        .u64(offset_of!(MlaDecodeParams, error_words), region(8))
        .u64(offset_of!(MlaDecodeParams, kv_pitch), 672)
        .u64(offset_of!(MlaDecodeParams, lse_pitch), 150)
        .u32(offset_of!(MlaDecodeParams, batch), 127)
        .u32(offset_of!(MlaDecodeParams, rows), row_tiles * 64 - 20)
        .u32(offset_of!(MlaDecodeParams, row_tiles), row_tiles)
        .u32(offset_of!(MlaDecodeParams, q_tokens), 2)
        .u32(offset_of!(MlaDecodeParams, heads), row_tiles * 32 - 10)
        .u32(offset_of!(MlaDecodeParams, pages), 100)
        .u32(offset_of!(MlaDecodeParams, page_size), 128)
        .u32(offset_of!(MlaDecodeParams, split_blocks), 1 << 26)
        .u32(offset_of!(MlaDecodeParams, causal), 1)
        .u32(offset_of!(MlaDecodeParams, scale_log2), 0.03_f32.to_bits())
        .u32(offset_of!(MlaDecodeParams, empty_lse), f32::NEG_INFINITY.to_bits());
    let (grid, smem_bytes) = (2 * row_tiles, instance.smem_bytes());
    Launch { kernel: instance.name(), grid, smem_bytes, params: params.0 }
}

/// One sequence of a single split, one of fifteen.
fn combine() -> Launch {
    let params = Params::of::<MlaCombineParams>()
        .u64(offset_of!(MlaCombineParams, part_out), region(0))
        .u64(offset_of!(MlaCombineParams, part_state), region(1))
        .u64(offset_of!(MlaCombineParams, split_offsets), region(2) + 4 * 173)
        .u64(offset_of!(MlaCombineParams, out), region(3))
        .u64(offset_of!(MlaCombineParams, lse), region(4))
        .u64(offset_of!(MlaCombineParams, out_pitch), 520)
        .u64(offset_of!(MlaCombineParams, lse_pitch), 5)
        .u32(offset_of!(MlaCombineParams, batch), 2)
        .u32(offset_of!(MlaCombineParams, rows), 4)
        .u32(offset_of!(MlaCombineParams, heads), 2)
        .u32(offset_of!(MlaCombineParams, empty_lse), f32::INFINITY.to_bits());
    fixed(&MLA_COMBINE, 1, params)
}

/// The last CTA has five of eight tokens.
fn append((format, scale_format): (u32, u32), words_per_index: u32) -> Launch {
    let params = Params::of::<KvAppendParams>()
        .u64(offset_of!(KvAppendParams, latent), region(0))
        .u64(offset_of!(KvAppendParams, k_pe), region(1))
        .indices(offset_of!(KvAppendParams, slots), region(2), 21, words_per_index)
        .u64(offset_of!(KvAppendParams, cache), region(3))
        .u64(offset_of!(KvAppendParams, error_words), region(4))
        .u64(offset_of!(KvAppendParams, latent_pitch), 576)
        .u64(offset_of!(KvAppendParams, k_pe_pitch), 72)
        .u64(offset_of!(KvAppendParams, cache_pitch), 1168)
        .u32(offset_of!(KvAppendParams, tokens), 21)
        .u32(offset_of!(KvAppendParams, rows), 200)
        .u32(offset_of!(KvAppendParams, format), format)
        .u32(offset_of!(KvAppendParams, scale_format), scale_format);
    fixed(&KV_APPEND, 3, params)
}

/// Three CTAs, the last one ragged; heads as in a query of 192 columns, to one of 576.
fn rope(words_per_index: u32) -> Launch {
    let params = Params::of::<RopeParams>()
        .u64(offset_of!(RopeParams, x), region(0))
        .indices(offset_of!(RopeParams, positions), region(1), 15, words_per_index)
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
    fixed(&ROPE, 3, params)
}
