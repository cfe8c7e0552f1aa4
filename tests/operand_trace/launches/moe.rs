//! The launches around the experts' GEMMs. Made-up ids, routes, rows and counts are below 252: some are in range, some not.

use std::mem::offset_of;

use deepseek_kernels::bindings::{
    CombineParams, ExpertMapParams, GatherQuantizeParams, SCALE_FP32, SCALE_POWER_OF_TWO,
    SwigluQuantizeParams, UsedRows,
};
use deepseek_kernels::table::FixedKernel;
use deepseek_kernels::table::moe::{
    COMBINE, EXPERT_MAP_COUNT, EXPERT_MAP_SCAN, EXPERT_MAP_SCATTER, GATHER_QUANTIZE, SWIGLU_QUANTIZE,
};

use super::{Launch, Params, fixed, region};

pub fn launches() -> Vec<Launch> {
    // Ragged, aligned, masked.
    let layouts = [(1, u32::MAX), (64, u32::MAX), (0, 2)];
    let maps = layouts.into_iter().flat_map(|layout| {
        [(EXPERT_MAP_COUNT, 5), (EXPERT_MAP_SCAN, 13), (EXPERT_MAP_SCATTER, 4)]
            .map(|step| map(step, layout, 1))
    });
    let wide_maps = [(EXPERT_MAP_COUNT, 5), (EXPERT_MAP_SCATTER, 4)].map(|step| map(step, layouts[0], 2));
    let rows = [0, 20]
        .into_iter()
        .flat_map(|max_rows| [gather(max_rows), swiglu(max_rows, true), swiglu(max_rows, false)]);
    maps.chain(wide_maps).chain(rows).chain([combine(true), combine(false)]).collect()
}

/// Four blocks, the last one ragged; a fifth CTA only clears rows.
fn map(
    (kernel, grid): (FixedKernel, u32),
    (alignment, max_rows): (u32, u32),
    words_per_index: u32,
) -> Launch {
    let params = Params::of::<ExpertMapParams>()
        .indices(offset_of!(ExpertMapParams, ids), region(0), 8, words_per_index)
        .u64(offset_of!(ExpertMapParams, row_route), region(1))
        .u64(offset_of!(ExpertMapParams, route_row), region(2))
        .u64(offset_of!(ExpertMapParams, offsets), region(3))
        .u64(offset_of!(ExpertMapParams, counts), region(4))
        .u64(offset_of!(ExpertMapParams, demand), region(5))
        .u64(offset_of!(ExpertMapParams, block_counts), region(6))
        .u64(offset_of!(ExpertMapParams, error_words), region(7))
        .u64(offset_of!(ExpertMapParams, route_row_pitch), 9)
        .u32(offset_of!(ExpertMapParams, routes), 1000)
        .u32(offset_of!(ExpertMapParams, top_k), 8)
        .u32(offset_of!(ExpertMapParams, rows), 3000)
        .u32(offset_of!(ExpertMapParams, experts), 100)
        .u32(offset_of!(ExpertMapParams, blocks), 4)
        .u32(offset_of!(ExpertMapParams, alignment), alignment)
        .u32(offset_of!(ExpertMapParams, max_rows), max_rows);
    fixed(&kernel, grid, params)
}

const ROWS: u32 = 160;
const K_BLOCKS: u32 = 3;

/// The rows of eight experts, at `offset` in the parameters.
fn used(params: Params, offset: usize, max_rows: u32) -> Params {
    params
        .u64(offset + offset_of!(UsedRows, rows), region(0))
        .u32(offset + offset_of!(UsedRows, total), ROWS)
        .u32(offset + offset_of!(UsedRows, experts), 8)
        .u32(offset + offset_of!(UsedRows, max_rows), max_rows)
}

fn gather(max_rows: u32) -> Launch {
    let params = Params::of::<GatherQuantizeParams>()
        .u64(offset_of!(GatherQuantizeParams, x), region(1))
        .u64(offset_of!(GatherQuantizeParams, row_route), region(2))
        .u64(offset_of!(GatherQuantizeParams, q), region(3))
        .u64(offset_of!(GatherQuantizeParams, sf), region(4))
        .u64(offset_of!(GatherQuantizeParams, error_words), region(5))
        .u64(offset_of!(GatherQuantizeParams, x_pitch), 400)
        .u64(offset_of!(GatherQuantizeParams, q_pitch), 392)
        .u64(offset_of!(GatherQuantizeParams, sf_pitch), 161)
        .u32(offset_of!(GatherQuantizeParams, routes), 150)
        .u32(offset_of!(GatherQuantizeParams, top_k), 6)
        .u32(offset_of!(GatherQuantizeParams, k_blocks), K_BLOCKS)
        .u32(offset_of!(GatherQuantizeParams, scale_format), SCALE_FP32);
    let params = used(params, offset_of!(GatherQuantizeParams, used), max_rows);
    fixed(&GATHER_QUANTIZE, ROWS * K_BLOCKS / 16, params)
}

fn swiglu(max_rows: u32, weighted: bool) -> Launch {
    let params = Params::of::<SwigluQuantizeParams>()
        .u64(offset_of!(SwigluQuantizeParams, x), region(1))
        .u64(offset_of!(SwigluQuantizeParams, weights), if weighted { region(2) } else { 0 })
        .u64(offset_of!(SwigluQuantizeParams, row_route), region(3))
        .u64(offset_of!(SwigluQuantizeParams, q), region(4))
        .u64(offset_of!(SwigluQuantizeParams, sf), region(5))
        .u64(offset_of!(SwigluQuantizeParams, error_words), region(6))
        .u64(offset_of!(SwigluQuantizeParams, x_pitch), 776)
        .u64(offset_of!(SwigluQuantizeParams, weights_pitch), 7)
        .u64(offset_of!(SwigluQuantizeParams, q_pitch), 400)
        .u64(offset_of!(SwigluQuantizeParams, sf_pitch), 163)
        .u32(offset_of!(SwigluQuantizeParams, clamp), 100.0_f32.to_bits())
        .u32(offset_of!(SwigluQuantizeParams, routes), 150)
        .u32(offset_of!(SwigluQuantizeParams, top_k), 6)
        .u32(offset_of!(SwigluQuantizeParams, k_blocks), K_BLOCKS)
        .u32(offset_of!(SwigluQuantizeParams, scale_format), SCALE_POWER_OF_TWO);
    let params = used(params, offset_of!(SwigluQuantizeParams, used), max_rows);
    fixed(&SWIGLU_QUANTIZE, ROWS * K_BLOCKS / 16, params)
}

/// With everything that can be added, or with the routes alone; more routes than a thread has in flight.
fn combine(all: bool) -> Launch {
    let optional = |index| if all { region(index) } else { 0 };
    let params = Params::of::<CombineParams>()
        .u64(offset_of!(CombineParams, y), region(0))
        .u64(offset_of!(CombineParams, route_row), region(1))
        .u64(offset_of!(CombineParams, weights), optional(2))
        .u64(offset_of!(CombineParams, shared), optional(3))
        .u64(offset_of!(CombineParams, residual), optional(4))
        .u64(offset_of!(CombineParams, out), region(5))
        .u64(offset_of!(CombineParams, error_words), region(6))
        .u64(offset_of!(CombineParams, y_pitch), 88)
        .u64(offset_of!(CombineParams, route_row_pitch), 7)
        .u64(offset_of!(CombineParams, weights_pitch), 9)
        .u64(offset_of!(CombineParams, shared_pitch), 96)
        .u64(offset_of!(CombineParams, residual_pitch), 104)
        .u64(offset_of!(CombineParams, out_pitch), 112)
        .u32(offset_of!(CombineParams, tokens), 37)
        .u32(offset_of!(CombineParams, top_k), 6)
        .u32(offset_of!(CombineParams, rows), 200)
        .u32(offset_of!(CombineParams, pieces), 10);
    fixed(&COMBINE, 2, params)
}
