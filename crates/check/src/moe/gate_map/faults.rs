//! Faults in the launch that gates and maps; those of the steps that it shares stand with the gate and the map.

use std::num::NonZeroU32;

use deepseek_kernels::moe::ExpertLayout;
use deepseek_kernels::router::GateSpec;

use super::GateMapCase;
use crate::case::{Cases, boxed};
use crate::planted::{Trial, faults};
use crate::router::gate::GateCase;

const FEW: Trial = Trial::Cases(few);
const LOCAL: Trial = Trial::Cases(local);

/// As many tokens as there is room for but a few, a shared expert, padding; no room for all in the masked layout.
fn few() -> Cases {
    let spec = GateSpec::new(123, 32, 72, 6).groups(8).kept_groups(3).shared(1);
    let gate = GateCase { mask: true, bias: true, scores: false, ..GateCase::new(spec) };
    let aligned = ExpertLayout::Aligned { alignment: NonZeroU32::new(8).expect("not 0") };
    let layouts = [ExpertLayout::Ragged, aligned, ExpertLayout::Masked { max_rows: 9 }];
    boxed(layouts.map(|layout| GateMapCase::new(gate).laid_out(layout)))
}

/// The same, of which a rank has some experts, and a list of them with entries that are none.
fn local() -> Cases {
    let spec = GateSpec::new(123, 32, 72, 6).groups(8).kept_groups(3).shared(1);
    boxed([GateMapCase::new(GateCase { mask: true, ..GateCase::new(spec) }).with_local(30)])
}

faults! {
    // What CTAs tell each other.
    no_barrier_of_the_cluster: FEW,
        "ptx::cluster_arrive(); ptx::cluster_wait();" => "", ["not ordered", "outside"];
    an_arrival_that_releases_nothing: FEW, "ptx::cluster_arrive()" => "ptx::cluster_arrive_relaxed()", ["not ordered"];
    nobody_waits: FEW, "ptx::cluster_wait();" => "", ["not ordered", "outside"];
    counted_behind_the_barrier: FEW,
        "uint32_t rank = count_block<Config>(params.map, sGroups, block.routes, sGroups + offsetof(Storage, counts));" => "",
        "ptx::cluster_wait();"
            => "ptx::cluster_wait();\
                uint32_t rank = count_block<Config>(params.map, sGroups, block.routes, sGroups + offsetof(Storage, counts));",
        ["not ordered"];
    cleared_behind_the_barrier: FEW,
        "clear_rows<Config>(params.map);" => "",
        "ptx::cluster_wait();" => "ptx::cluster_wait(); clear_rows<Config>(params.map);", ["not ordered"];
    rows_never_cleared: FEW, "clear_rows<Config>(params.map);" => "", ["row_route["];
    counts_read_past_the_launch: FEW,
        "uint32_t sum_blocks ... ptx::ld_global_u32" => "ptx::ldg_u32", ["of the same launch has written"];

    // What threads of a CTA tell each other.
    no_barrier_before_the_groups_are_read: FEW,
        "uint32_t count_block ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    no_barrier_before_the_starts_are_read: FEW,
        "sum_blocks<Config>(params.map, params.map.experts, sBefore); ptx::syncthreads();"
            => "sum_blocks<Config>(params.map, params.map.experts, sBefore);",
        ["not ordered", "nothing has written"];
    groups_behind_the_last_unwritten: FEW,
        "if (thread >= count * top_k) ptx::sts_u32(sGroups + thread * sizeof(uint32_t), kNoGroup);" => "",
        ["nothing has written"];
    a_group_of_the_next_route: FEW,
        "(warp * top_k + lane) * sizeof" => "(warp * top_k + lane + 1) * sizeof", ["not ordered", "nothing has written"];

    // Blocks.
    tokens_dealt_round_robin: FEW, "params.gate, first + warp" => "params.gate, warp * Config::kCluster + ptx::cta_idx()",
        ["not ordered", "outside", "experts: ids["];
    a_token_of_the_next_block: FEW, "warp < count" => "warp <= count", ["not ordered", "outside"];
    routes_start_with_the_block: FEW, "block.first + thread" => "thread", ["not ordered", "row_route["];
    own_block_counted_as_before: FEW, "block < own" => "block <= own", ["row_route[", "not ordered", "outside"];
    blocks_before_left_out: FEW,
        "rank += ptx::lds_u32(sBefore + group * sizeof(uint32_t))" => "rank += 0", ["not ordered", "row_route["];
    one_block_left_out_of_the_demand: FEW,
        "block < Config::kCluster; ++block" => "block < Config::kCluster - 1; ++block", ["demand[", "not ordered"];
    every_cta_tells_the_demand: FEW, "if (own == 0) store_demand" => "store_demand", ["not ordered"];
    no_cta_tells_the_demand: FEW, "own == 0" => "own == 99", ["demand[", "counts["];
    strangers_untold: FEW,
        "if (thread == 0) sum_blocks<Config>(params.map, params.map.experts, sBefore);" => "", ["demand["];
    strangers_taken_for_none: LOCAL,
        "if (thread == 0) sum_blocks<Config>(params.map, params.map.experts, sBefore)"
            => "if (ptx::cta_idx() == 0 && thread == 0) store_demand(params.map, params.map.experts, 0)",
        ["demand["];
    global_ids_for_local_ones: LOCAL, "find_group(params.map, route.id)" => "group_of_id(route.id, params.map.experts)",
        ["demand[", "row_route[", "not ordered"];
    shared_experts_left_out: FEW, "lane < top_k" => "lane < params.gate.top_k", ["nothing has written"];
}
