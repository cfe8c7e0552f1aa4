//! Faults in the expert map, whichever launch has its steps.

use std::num::NonZeroU32;

use deepseek_kernels::moe::ExpertLayout;

use super::ExpertMapCase;
use crate::case::{Cases, boxed};
use crate::moe::Routing;
use crate::planted::{Trial, drawn, faults};

const MAP: Trial = Trial::Cases(map);
const WIDE: Trial = Trial::Wide(|| drawn(map()));
const LOCAL: Trial = Trial::Cases(local);
const WIDE_LOCAL: Trial = Trial::Wide(|| drawn(local()));

/// Three blocks, ids of every kind, more experts than threads; no room for all in the masked layout.
fn map() -> Cases {
    let aligned = ExpertLayout::Aligned { alignment: NonZeroU32::new(8).expect("not 0") };
    let layouts = [(300, ExpertLayout::Ragged), (5, aligned), (5, ExpertLayout::Masked { max_rows: 20 })];
    boxed(layouts.map(|(experts, layout)| {
        let map = ExpertMapCase::new((150, 4, experts)).laid_out(layout);
        ExpertMapCase { routing: Routing::Strangers, ..map }
    }))
}

/// A third of the experts is here; ids and entries of the list of every kind.
fn local() -> Cases {
    let map = ExpertMapCase { routing: Routing::Strangers, ..ExpertMapCase::new((150, 4, 30)) };
    boxed([map.with_local(10)])
}

faults! {
    rank_counts_the_route_itself: MAP, "i + j < thread" => "i + j <= thread", ["row_route"];
    rank_of_every_second_route: MAP, "i += 4" => "i += 8", ["not ordered", "row_route"];
    dropped_id_used_as_an_index: MAP,
        "id == kDropped ? kNoGroup : experts" => "id", ["not ordered", "out of bounds", "outside"];
    stranger_used_as_an_index: MAP,
        "id < experts ? id : id == kDropped ? kNoGroup : experts" => "id == kDropped ? kNoGroup : id",
        ["not ordered", "out of bounds", "outside"];
    dropped_ids_counted_as_strangers: MAP, "id == kDropped ? kNoGroup : experts" => "experts", ["demand["];
    narrow_ids_read_as_wide: MAP, "indices.words_per_index - 1" => "1", ["outside"];
    gaps_of_ids_read: MAP,
        "route / params.top_k, route % params.top_k" => "0, route", ["demand[", "row_route["];
    rows_of_routes_without_their_pitch: MAP,
        "params.top_k, params.route_row_pitch" => "params.top_k, params.top_k", ["route_row[", "not ordered"];
    routes_past_the_end: MAP, "if (route >= params.routes) return kNoGroup;" => "", ["outside"];
    no_barrier_before_the_groups_are_read: MAP,
        "uint32_t count_block ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    no_barrier_before_the_counts_are_read: MAP,
        "rank.total); ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    counts_never_cleared: MAP, "ptx::sts_u32(sCounts + g * sizeof(uint32_t), 0);" => "", ["nothing has written"];
    rows_never_cleared: MAP, "clear_rows<Config>(params);" => "", ["row_route["];
    strangers_not_counted: MAP,
        "sCounts + group * sizeof(uint32_t)" => "sCounts", ["demand[", "not ordered", "row_route["];
    block_left_out_of_the_sum: MAP, "end = first + run" => "end = first + run + 1", ["not ordered", "demand["];
    routes_kept_beyond_the_room: MAP, "rank < params.max_rows" => "true", ["row_route[", "not ordered", "outside"];
    surplus_unreported: MAP, "if (!fits) report_fault(params.error_words, FAULT_SEGMENT);" => "", ["got one of ids of experts"];
    surplus_counted_as_rows: MAP, "fits ? demand : params.max_rows" => "demand", ["counts["];
    segment_not_aligned: MAP,
        "(count + params.alignment - 1) / params.alignment * params.alignment" => "count", ["row_route[", "offsets["];
    segment_one_row_short: MAP,
        "start += rows[i]" => "start += rows[i] > 0 ? rows[i] - 1 : 0", ["row_route", "offsets["];
    no_barrier_before_the_starts_are_read: MAP,
        "void expert_map_scatter_kernel ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    no_barrier_before_the_sums_are_read: MAP,
        "CtaSum cta_sum ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    sum_of_the_warps_after: MAP, "w < warp" => "w > warp", ["offsets[", "row_route[", "outside"];
    expert_of_the_next_thread: MAP,
        "ptx::thread_idx() * kExpertsPerThread" => "ptx::thread_idx() * kExpertsPerThread + 1",
        ["offsets[", "row_route[", "nothing has written"];

    // Experts of which not all are here.
    global_ids_for_local_ones: LOCAL,
        "params.local_ids.words != nullptr && expert < params.global_experts" => "false", ["demand[", "row_route["];
    strangers_looked_up: LOCAL,
        "params.local_ids.words != nullptr && expert < params.global_experts" => "true", ["outside"];
    local_ids_of_the_local_experts_alone: LOCAL,
        "expert < params.global_experts" => "expert < params.experts", ["demand[", "row_route["];
    entries_that_are_none_dropped: LOCAL,
        "group_of_id(expert, params.experts); }" => "expert < params.experts ? expert : kNoGroup; }", ["demand["];
    wide_local_ids_read_as_narrow: WIDE_LOCAL, "column * indices.words_per_index" => "column", ["demand[", "row_route["];

    // Ids of 64 bits.
    high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["demand[", "row_route["];
    sign_of_64_bits_ignored: WIDE, "high == low >> 31" => "high == 0", ["demand["];
    what_does_not_fit_dropped: WIDE, "low : INT32_MIN" => "low : -1", ["demand["];
    wide_ids_read_as_narrow: WIDE, "column * indices.words_per_index" => "column", ["demand[", "row_route["];
    pitch_of_wide_ids_doubled: WIDE,
        "row * indices.pitch" => "row * indices.pitch * indices.words_per_index", ["outside", "demand["];
}
