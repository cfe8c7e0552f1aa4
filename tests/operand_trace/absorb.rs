//! The launches around MLA's attention.

use std::mem::offset_of;

use crate::bindings::{HeadGemmParams, MergePart, MergeStatesParams};
use crate::instances::{FixedKernel, MERGE_STATES, MLA_ABSORB_OUTPUT, MLA_ABSORB_QUERY};
use crate::launches::{Launch, Params, fixed, region};

pub fn launches() -> Vec<Launch> {
    let merges = [(0, 0), (1, 0), (0, 1)].map(|(o_is_f32, infinity)| merge_states(o_is_f32, infinity));
    // Two tiles of tokens, two of columns, or one; two heads.
    [absorb(&MLA_ABSORB_QUERY, 8), absorb(&MLA_ABSORB_OUTPUT, 4)].into_iter().chain(merges).collect()
}

fn absorb(kernel: &FixedKernel, grid: u32) -> Launch {
    let params = Params::of::<HeadGemmParams>().u32(offset_of!(HeadGemmParams, tokens), 70);
    fixed(kernel.name, grid, kernel.smem_bytes, params)
}

/// The last CTA is ragged.
fn merge_states(o_is_f32: u32, infinity_is_empty: u32) -> Launch {
    let params = Params::of::<MergeStatesParams>()
        .u64(offset_of!(MergeStatesParams, out), region(0))
        .u64(offset_of!(MergeStatesParams, out_lse), region(1))
        .u64(offset_of!(MergeStatesParams, out_pitch), 520)
        .u32(offset_of!(MergeStatesParams, rows), 11)
        .u32(offset_of!(MergeStatesParams, o_is_f32), o_is_f32)
        .u32(offset_of!(MergeStatesParams, infinity_is_empty), infinity_is_empty);
    let part = |params: Params, i: usize| {
        let at = offset_of!(MergeStatesParams, part) + i * size_of::<MergePart>();
        params
            .u64(at + offset_of!(MergePart, o), region(2 + 2 * i as u64))
            .u64(at + offset_of!(MergePart, lse), region(3 + 2 * i as u64))
            .u64(at + offset_of!(MergePart, o_pitch), 512 + 8 * i as u64)
    };
    fixed(MERGE_STATES.name, 3, MERGE_STATES.smem_bytes, part(part(params, 0), 1))
}
