//! The launches of a step that are traced, and those whose protocols are explored.

use crate::trace::{Launch, Params, WORDS_PER_INDEX, fillings, fixed, region};
use deepseek_kernels::bindings::{MlaCombineParams, MlaDecodeParams, MlaScheduleParams};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::table::mla::{
    MLA_BLOCK_KEYS, MLA_BLOCK_ROWS, MLA_COMBINE, MLA_INSTANCES, MLA_SCHEDULE, MLA_STAGES, MLA_TILE_COLUMNS,
    MlaInstance,
};
use std::mem::offset_of;

use crate::mla::ROPE;

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    // A page table of either width, or none.
    let decodes = MLA_INSTANCES.iter().flat_map(|instance| {
        let tables = [1, 2, 0].map(|words| decode(instance, words, 128));
        tables.into_iter().chain([decode(instance, 1, 12)])
    });
    // Positions that are codes, and are not there.
    let per_tensor = MLA_INSTANCES.iter().filter(|instance| instance.format == KvFormat::Fp8PerTensor);
    let without = per_tensor.map(|instance| decode_with(instance, 1, 128, 0));
    decodes.chain(without).chain(WORDS_PER_INDEX.map(schedule)).chain([combine()]).collect()
}

fn schedule(words_per_index: u32) -> Launch {
    let params = Params::of::<MlaScheduleParams>()
        .indices(offset_of!(MlaScheduleParams, lengths), region(0), 130, words_per_index)
        .indices(offset_of!(MlaScheduleParams, q_offsets), region(5), 131, words_per_index)
        .u64(offset_of!(MlaScheduleParams, tables.queries), region(6))
        .u64(offset_of!(MlaScheduleParams, tables.lengths), region(1))
        .u64(offset_of!(MlaScheduleParams, tables.split_offsets), region(2))
        .u64(offset_of!(MlaScheduleParams, tables.items), region(3))
        .u64(offset_of!(MlaScheduleParams, error_words), region(4))
        .u32(offset_of!(MlaScheduleParams, batch), 130)
        .u32(offset_of!(MlaScheduleParams, capacity), 200)
        .u32(offset_of!(MlaScheduleParams, split_keys), 64)
        .u32(offset_of!(MlaScheduleParams, q_tokens), 3)
        .u32(offset_of!(MlaScheduleParams, tokens), 230)
        .u64(offset_of!(MlaScheduleParams, total_keys), 9000);
    fixed(&MLA_SCHEDULE, 2, params)
}

/// Two workers, each on two row tiles or clusters of them, of which the last tile is not full.
///
/// `split_blocks` makes every split begin at key 0, modulo 2^32: what lengths are made up then decides the number of
/// blocks and the tail. The offsets begin where there are four items, the second of them the only split of a sequence.
fn decode(instance: &MlaInstance, words_per_page: u32, page_size: u32) -> Launch {
    decode_with(instance, words_per_page, page_size, ROPE as u32)
}

fn decode_with(instance: &MlaInstance, words_per_page: u32, page_size: u32, rope: u32) -> Launch {
    let row_tiles = 2 * instance.cluster;
    let params = decode_params(instance, words_per_page, page_size, rope);
    params.launch(instance.name(), 2 * row_tiles, instance.smem_bytes())
}

/// What the exploration of protocols launches: a worker, or a cluster of them, with sequences of every number of blocks that
/// matters, one alone and one after the other, whole and in splits, with boxes of all own keys and of a few; and tiles without
/// rows, of one CTA of a cluster, or of all.
pub fn explored() -> Vec<Launch> {
    let of = |instance: &MlaInstance| {
        let explored = |work: Work| explored_of(instance, work);
        let blocks = fillings(MLA_STAGES);
        let alone = blocks.chunks(1).map(|blocks| Work { blocks, ..Work::default() });
        let one_by_one = Work { blocks: &[1, 0, 2, 5, 0, 3], ..Work::default() };
        let others = [
            one_by_one,
            Work { page_size: 4, ..one_by_one },
            Work { split_blocks: 2, ..one_by_one },
            Work { rows: MLA_BLOCK_ROWS - 24, ..one_by_one },
        ];
        let rope = Work { rope: 0, ..one_by_one };
        let without = (instance.format == KvFormat::Fp8PerTensor).then_some(rope);
        alone.chain(others).chain(without).map(explored).collect::<Vec<_>>()
    };
    MLA_INSTANCES.iter().flat_map(of).collect()
}

/// Sequences of so many blocks of keys, each with so many rows.
#[derive(Clone, Copy)]
struct Work<'a> {
    blocks: &'a [u32],
    split_blocks: u32,
    page_size: u32,
    rows: u32,
    rope: u32,
}

impl Default for Work<'_> {
    fn default() -> Self {
        Self {
            blocks: &[],
            split_blocks: 8,
            page_size: 128,
            rows: 2 * MLA_BLOCK_ROWS - 20,
            rope: ROPE as u32,
        }
    }
}

fn explored_of(instance: &MlaInstance, Work { blocks, split_blocks, page_size, rows, rope }: Work) -> Launch {
    // Twice as many tiles of rows as sequences have.
    let row_tiles = 2 * rows.div_ceil(MLA_BLOCK_ROWS).next_multiple_of(instance.cluster);
    let batch = blocks.len() as u32;
    let splits = |&blocks: &u32| blocks.div_ceil(split_blocks).max(1);
    let items = (0..batch)
        .zip(blocks)
        .flat_map(|(sequence, blocks)| (0..splits(blocks)).flat_map(move |i| [sequence, i]));
    let offsets = blocks.iter().scan(0, |end, blocks| {
        *end += splits(blocks);
        Some(*end)
    });
    // The last block is not whole.
    let lengths: Vec<u32> = blocks.iter().map(|blocks| (blocks * MLA_BLOCK_KEYS).saturating_sub(5)).collect();
    let params = decode_params(instance, 1, page_size, rope)
        .u64(offset_of!(MlaDecodeParams, tables.split_offsets), region(3))
        .u32(offset_of!(MlaDecodeParams, batch), batch)
        .u32(offset_of!(MlaDecodeParams, rows), batch * rows)
        .u32(offset_of!(MlaDecodeParams, row_tiles), row_tiles)
        .u32(offset_of!(MlaDecodeParams, heads), rows)
        .u32(offset_of!(MlaDecodeParams, split_blocks), split_blocks)
        .words(region(9), &(0..batch).flat_map(|sequence| [sequence, 1]).collect::<Vec<_>>())
        .words(region(2), &lengths)
        .words(region(3), &[0].into_iter().chain(offsets).collect::<Vec<_>>())
        .words(region(4), &items.collect::<Vec<_>>());
    params.launch(instance.name(), row_tiles, instance.smem_bytes())
}

fn decode_params(instance: &MlaInstance, words_per_page: u32, page_size: u32, rope: u32) -> Params {
    let row_tiles = 2 * instance.cluster;
    let box_keys = (1 << page_size.trailing_zeros()).min(64 / instance.cluster);
    let page_table = if words_per_page == 0 { 0 } else { region(1) };
    let row = 2 * MLA_TILE_COLUMNS;
    Params::of::<MlaDecodeParams>()
        .boxes(offset_of!(MlaDecodeParams, map_q), MLA_BLOCK_ROWS * row)
        .boxes(offset_of!(MlaDecodeParams, map_kv), box_keys * row)
        .u64(offset_of!(MlaDecodeParams, kv), region(0))
        .u64(offset_of!(MlaDecodeParams, kv_scale), region(11))
        .indices(offset_of!(MlaDecodeParams, page_table), page_table, 3, words_per_page)
        .u64(offset_of!(MlaDecodeParams, tables.queries), region(9))
        .u64(offset_of!(MlaDecodeParams, tables.lengths), region(2))
        .u64(offset_of!(MlaDecodeParams, tables.split_offsets), region(3) + 4 * 118)
        .u64(offset_of!(MlaDecodeParams, tables.items), region(4))
        .u64(offset_of!(MlaDecodeParams, out), region(10))
        .u64(offset_of!(MlaDecodeParams, lse), region(5))
        .u64(offset_of!(MlaDecodeParams, part_out), region(6))
        .u64(offset_of!(MlaDecodeParams, part_state), region(7))
        .u64(offset_of!(MlaDecodeParams, error_words), region(8))
        .u64(offset_of!(MlaDecodeParams, kv_pitch), 672)
        .u64(offset_of!(MlaDecodeParams, page_stride), 672 * 130)
        .u64(offset_of!(MlaDecodeParams, lse_strides.group), 450)
        .u64(offset_of!(MlaDecodeParams, lse_strides.token), 150)
        .u64(offset_of!(MlaDecodeParams, lse_strides.head), 1)
        .u32(offset_of!(MlaDecodeParams, lse_strides.group_tokens), 3)
        .u64(offset_of!(MlaDecodeParams, out_pitch), 520)
        .u32(offset_of!(MlaDecodeParams, batch), 127)
        .u32(offset_of!(MlaDecodeParams, rows), row_tiles * 64 - 20)
        .u32(offset_of!(MlaDecodeParams, row_tiles), row_tiles)
        .u32(offset_of!(MlaDecodeParams, heads), row_tiles * 32 - 10)
        .u32(offset_of!(MlaDecodeParams, rope), rope)
        .u32(offset_of!(MlaDecodeParams, pages), 100)
        .u32(offset_of!(MlaDecodeParams, page_size), page_size)
        .u32(offset_of!(MlaDecodeParams, box_keys), box_keys)
        .u32(offset_of!(MlaDecodeParams, split_blocks), 1 << 26)
        .u32(offset_of!(MlaDecodeParams, causal), 1)
        .u32(offset_of!(MlaDecodeParams, scale_log2), 0.03_f32.to_bits())
        .u32(offset_of!(MlaDecodeParams, empty_lse), f32::NEG_INFINITY.to_bits())
}

/// One sequence of a single split, one of fifteen.
fn combine() -> Launch {
    let params = Params::of::<MlaCombineParams>()
        .u64(offset_of!(MlaCombineParams, part_out), region(0))
        .u64(offset_of!(MlaCombineParams, part_state), region(1))
        .u64(offset_of!(MlaCombineParams, queries), region(5))
        .u64(offset_of!(MlaCombineParams, split_offsets), region(2) + 4 * 173)
        .u64(offset_of!(MlaCombineParams, out), region(3))
        .u64(offset_of!(MlaCombineParams, lse), region(4))
        .u64(offset_of!(MlaCombineParams, out_pitch), 520)
        .u64(offset_of!(MlaCombineParams, lse_strides.group), 5)
        .u64(offset_of!(MlaCombineParams, lse_strides.head), 2)
        .u32(offset_of!(MlaCombineParams, lse_strides.group_tokens), 1)
        .u32(offset_of!(MlaCombineParams, batch), 2)
        .u32(offset_of!(MlaCombineParams, rows), 4)
        .u32(offset_of!(MlaCombineParams, heads), 2)
        .u32(offset_of!(MlaCombineParams, empty_lse), f32::INFINITY.to_bits());
    fixed(&MLA_COMBINE, 1, params)
}
