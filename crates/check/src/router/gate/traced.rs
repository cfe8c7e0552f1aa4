//! The launches of the gate that are traced. Made-up logits are small integers, so many decisions are ties.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::{
    GATE_GROUP_MAX, GATE_GROUP_TOP2_SUM, GATE_SIGMOID, GATE_SOFTMAX, GATE_SQRT_SOFTPLUS, GateLogitsParams,
    GateSelectParams,
};
use deepseek_kernels::table::FixedKernel;
use deepseek_kernels::table::router::{GATE_LOGITS, GATE_LOGITS_FEW, gate_select};
use std::mem::offset_of;

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let selections = [GROUPED, SOFTMAX, SQRT_SOFTPLUS, MANY, FIXED, FIXED_WIDE, BARE];
    let logits = [logits(&GATE_LOGITS, 4, 0), logits(&GATE_LOGITS, 4, 1), logits(&GATE_LOGITS_FEW, 3 * 5, 0)];
    logits.into_iter().chain(selections.iter().map(select)).collect()
}

/// Several tiles of tokens and of experts, ragged; a second chunk shorter than the first.
fn logits(kernel: &FixedKernel, tiles: u32, w_is_bf16: u32) -> Launch {
    let params = Params::of::<GateLogitsParams>()
        .u64(offset_of!(GateLogitsParams, x), region(0))
        .u64(offset_of!(GateLogitsParams, w), region(1))
        .u64(offset_of!(GateLogitsParams, partial), region(2))
        .u64(offset_of!(GateLogitsParams, x_pitch), 1112)
        .u64(offset_of!(GateLogitsParams, w_pitch), 1104)
        .u32(offset_of!(GateLogitsParams, t), 37)
        .u32(offset_of!(GateLogitsParams, experts), 72)
        .u32(offset_of!(GateLogitsParams, k), 1024 + 64)
        .u32(offset_of!(GateLogitsParams, w_is_bf16), w_is_bf16);
    fixed(kernel, 2 * tiles, params)
}

/// A choice that is traced.
pub struct Selection {
    pub experts: u32,
    chunks: u32,
    /// All, and those kept.
    groups: [u32; 2],
    /// Routed and shared.
    pub routes: [u32; 2],
    scoring: u32,
    group_score: u32,
    normalize: u32,
    /// Words of an index of the choice that is kept; 0: there is none.
    fixed: u32,
    /// Bias, mask and scores are there.
    optional: bool,
}

pub const GROUPED: Selection = Selection {
    experts: 72,
    chunks: 3,
    groups: [8, 3],
    routes: [6, 2],
    scoring: GATE_SIGMOID,
    group_score: GATE_GROUP_TOP2_SUM,
    normalize: 1,
    fixed: 0,
    optional: true,
};

pub const SOFTMAX: Selection = Selection {
    experts: 500,
    groups: [4, 2],
    routes: [3, 0],
    scoring: GATE_SOFTMAX,
    group_score: GATE_GROUP_MAX,
    normalize: 0,
    ..GROUPED
};

const SQRT_SOFTPLUS: Selection =
    Selection { scoring: GATE_SQRT_SOFTPLUS, groups: [1, 1], routes: [16, 0], ..SOFTMAX };

const MANY: Selection = Selection { experts: 896, groups: [28, 9], routes: [16, 1], ..GROUPED };

/// Made-up ids are below 252: some are no experts.
pub const FIXED: Selection = Selection { experts: 200, fixed: 1, ..GROUPED };

const FIXED_WIDE: Selection = Selection { fixed: 2, ..FIXED };

const BARE: Selection =
    Selection { experts: 5, chunks: 1, groups: [1, 1], routes: [8, 0], optional: false, ..GROUPED };

fn select(selection: &Selection) -> Launch {
    fixed(
        &gate_select(selection.experts as usize),
        2,
        traced_selection(Params::of::<GateSelectParams>(), 0, selection, 6),
    )
}

/// The choice for `t` tokens, at `at` in the parameters.
pub fn traced_selection(params: Params, at: usize, selection: &Selection, t: u32) -> Params {
    let optional = |index| if selection.optional { region(index) } else { 0 };
    let fixed_ids = if selection.fixed == 0 { 0 } else { region(3) };
    params
        .u64(at + offset_of!(GateSelectParams, logits), region(0))
        .u64(at + offset_of!(GateSelectParams, bias), optional(1))
        .u64(at + offset_of!(GateSelectParams, mask), optional(2))
        .indices(at + offset_of!(GateSelectParams, fixed_ids), fixed_ids, 7, selection.fixed)
        .u64(at + offset_of!(GateSelectParams, ids), region(4))
        .u64(at + offset_of!(GateSelectParams, weights), region(5))
        .u64(at + offset_of!(GateSelectParams, scores), optional(6))
        .u64(at + offset_of!(GateSelectParams, error_words), region(7))
        .u64(at + offset_of!(GateSelectParams, chunk_stride), 5000)
        .u64(at + offset_of!(GateSelectParams, logits_pitch), 900)
        .u64(at + offset_of!(GateSelectParams, ids_pitch), 11)
        .u64(at + offset_of!(GateSelectParams, weights_pitch), 10)
        .u64(at + offset_of!(GateSelectParams, scores_pitch), 901)
        .u32(at + offset_of!(GateSelectParams, t), t)
        .u32(at + offset_of!(GateSelectParams, experts), selection.experts)
        .u32(at + offset_of!(GateSelectParams, chunks), selection.chunks)
        .u32(at + offset_of!(GateSelectParams, groups), selection.groups[0])
        .u32(at + offset_of!(GateSelectParams, kept_groups), selection.groups[1])
        .u32(at + offset_of!(GateSelectParams, top_k), selection.routes[0])
        .u32(at + offset_of!(GateSelectParams, shared), selection.routes[1])
        .u32(at + offset_of!(GateSelectParams, scoring), selection.scoring)
        .u32(at + offset_of!(GateSelectParams, group_score), selection.group_score)
        .u32(at + offset_of!(GateSelectParams, normalize), selection.normalize)
        .u32(at + offset_of!(GateSelectParams, route_scale), 2.5_f32.to_bits())
}
