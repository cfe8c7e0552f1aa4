//! Faults in the kernels around the experts' GEMMs: map, gather, SwiGLU, combine.

use std::num::NonZeroU32;

use deepseek_kernels::moe::{ExpertLayout, ExpertMapSpec};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::{Device, Error, bf16};
use oracles::moe::Combined;
use oracles::quant::quantizer_rows;

use super::build::{Edit, Library};
use super::{SEEDS, caught_in};
use check::moe::rows::{Batch, LAYOUTS, Swiglu, activations, check_gather, weights};
use check::moe::tokens::{Combination, combine_weights, map_rows, values};
use check::moe::{Routing, check_map};

#[derive(Clone, Copy)]
enum Operation {
    Map,
    Gather,
    Swiglu,
    Combine,
}

const OPERATIONS: [Operation; 4] = [Operation::Map, Operation::Gather, Operation::Swiglu, Operation::Combine];

impl Operation {
    fn kernels(self) -> &'static [&'static str] {
        match self {
            Self::Map => &["expert_map_count", "expert_map_scan", "expert_map_scatter"],
            Self::Gather => &["gather_quantize"],
            Self::Swiglu => &["swiglu_quantize"],
            Self::Combine => &["combine"],
        }
    }

    fn run(self, device: &Device) {
        match self {
            Self::Map => maps(device),
            Self::Gather => gathers(device),
            Self::Swiglu => activates(device),
            Self::Combine => combines(device),
        }
    }
}

/// Three blocks, ids of every kind, more experts than threads; no room for all in the masked layout.
fn maps(device: &Device) {
    let aligned = ExpertLayout::Aligned { alignment: NonZeroU32::new(8).expect("not 0") };
    for (experts, layout) in
        [(300, ExpertLayout::Ragged), (5, aligned), (5, ExpertLayout::Masked { max_rows: 20 })]
    {
        let spec = ExpertMapSpec { tokens: 150, top_k: 4, experts, layout };
        check_map(device, spec, &Routing::Strangers.ids((150, 4, experts), 1));
        let Err(Error::Data(faults)) = device.poll_error() else { panic!("strange ids went unreported") };
        assert!(faults.expert_id(), "strange ids went unreported");
        let crowded = matches!(layout, ExpertLayout::Masked { .. });
        assert_eq!(faults.segment(), crowded, "routes without room went unreported, or were not without");
    }
}

fn gathers(device: &Device) {
    for layout in LAYOUTS {
        let batch = Batch::new((23, 3, 5), layout, Routing::Strangers, 2);
        check_gather(device, &batch, &quantizer_rows(23, 256, 1), 256, ScaleFormat::Fp32);
    }
}

fn activates(device: &Device) {
    for layout in LAYOUTS {
        let batch = Batch::new((23, 3, 5), layout, Routing::Strangers, 2);
        let (x, w) = (activations(&batch, 256, 1), weights(69));
        let case = Swiglu {
            batch: &batch,
            x: &x,
            intermediate: 256,
            clamp: Some(6.0),
            weights: Some(&w),
            format: ScaleFormat::Fp32,
        };
        case.check(device);
    }
}

fn combines(device: &Device) {
    let (tokens, top_k, hidden) = (21, 6, 72);
    let (y, w) = (values(tokens * top_k * hidden, 1), combine_weights(tokens * top_k));
    let (shared, residual) = (values(tokens * hidden, 2), values(tokens * hidden, 3));
    let mut route_row = map_rows((tokens, top_k, 9), Routing::Strangers, 4);
    let addends = Combined { weights: Some(&w), shared: Some(&shared), residual: Some(&residual) };
    Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends }.check(device);
    route_row[5] = (tokens * top_k) as i32;
    Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends }.check(device);

    // A product that FP32 cannot hold, taken from itself.
    let y: Vec<bf16> = [1.007_812_5, -1.007_812_5].iter().flat_map(|&x| [bf16::from_f32(x); 8]).collect();
    let addends = Combined { weights: Some(&[1.234_567_8; 2]), ..Combined::default() };
    Combination { tokens: 1, top_k: 2, hidden: 8, y: &y, route_row: &[0, 1], addends }.check(device);

    // One sum whose order decides it.
    let y: Vec<bf16> = [1.0, 3e8, -3e8, 0.5].iter().flat_map(|&x| [bf16::from_f32(x); 8]).collect();
    let addends = Combined::default();
    Combination { tokens: 1, top_k: 4, hidden: 8, y: &y, route_row: &[0, 1, 2, 3], addends }.check(device);
}

#[test]
fn no_fault() {
    for operation in OPERATIONS {
        let library = Library::of(operation.kernels(), &[]);
        for seed in 0..SEEDS {
            operation.run(&library.device(seed));
        }
    }
}

fn caught(operation: Operation, edits: &[Edit], causes: &[&str]) {
    caught_in(&Library::of(operation.kernels(), edits), &|device| operation.run(device), causes);
}

macro_rules! faults {
    ($($name:ident: $operation:expr, $file:expr, $from:literal => $to:literal, [$($cause:literal),+];)*) => {$(
        #[test]
        fn $name() {
            caught($operation, &[Edit { file: $file, from: $from, to: $to }], &[$($cause),+]);
        }
    )*};
}

const MAP: &str = "moe/expert_map.cuh";
const COUNT: &str = "moe/expert_map_count.cuh";
const SCAN: &str = "moe/expert_map_scan.cuh";
const SCATTER: &str = "moe/expert_map_scatter.cuh";
const USED: &str = "moe/used_rows.cuh";
const GATHER: &str = "moe/gather_quantize.cuh";
const SWIGLU: &str = "moe/swiglu_quantize.cuh";
const COMBINE: &str = "moe/combine.cuh";

faults! {
    rank_counts_the_route_itself: Operation::Map, MAP, "i + j < thread" => "i + j <= thread", ["row_route"];
    rank_of_every_second_route: Operation::Map, MAP, "i < expert_map_threads; i += 4" => "i < expert_map_threads; i += 8", ["not ordered", "row_route"];
    dropped_id_used_as_an_index: Operation::Map, MAP, "id == kDropped ? kNoGroup : experts" => "id", ["not ordered", "out of bounds", "outside"];
    stranger_used_as_an_index: Operation::Map, MAP, "return id < experts ? id : id == kDropped ? kNoGroup : experts;"
        => "return id == kDropped ? kNoGroup : id;", ["not ordered", "out of bounds", "outside"];
    dropped_ids_counted_as_strangers: Operation::Map, MAP, "id == kDropped ? kNoGroup : experts" => "experts", ["demand["];
    routes_past_the_end: Operation::Map, MAP, "route < params.routes ? group_of_id" => "true ? group_of_id", ["outside"];
    no_barrier_before_the_groups_are_read: Operation::Map, COUNT, "  ptx::syncthreads();\n  if (group != kNoGroup)" => "  if (group != kNoGroup)",
        ["not ordered", "nothing has written"];
    no_barrier_before_the_counts_are_read: Operation::Map, COUNT, "  ptx::syncthreads();\n  for" => "  for", ["not ordered", "nothing has written"];
    counts_never_cleared: Operation::Map, COUNT, "ptx::sts_u32(sCounts + g * sizeof(uint32_t), 0);" => "", ["nothing has written"];
    rows_never_cleared: Operation::Map, COUNT, "  clear_rows(params);" => "", ["row_route["];
    strangers_not_counted: Operation::Map, COUNT, "sCounts + group * sizeof(uint32_t), rank.total" => "sCounts, rank.total", ["demand[", "not ordered", "row_route["];
    block_left_out_of_the_sum: Operation::Map, SCAN, "const uint32_t end = first + run <" => "const uint32_t end = first + run + 1 <", ["not ordered", "demand["];
    routes_kept_beyond_the_room: Operation::Map, SCATTER, "if (rank < params.max_rows) {" => "{", ["row_route[", "not ordered", "outside"];
    surplus_unreported: Operation::Map, SCAN, "if (!fits) report_fault(params.error_words, FAULT_SEGMENT);" => "", ["unreported"];
    surplus_counted_as_rows: Operation::Map, SCAN, "fits ? demand : params.max_rows" => "demand", ["counts["];
    segment_not_aligned: Operation::Map, SCATTER, "(count + params.alignment - 1) / params.alignment * params.alignment" => "count",
        ["row_route[", "offsets["];
    segment_one_row_short: Operation::Map, SCATTER, "    start += rows[i];" => "    start += rows[i] > 0 ? rows[i] - 1 : 0;", ["row_route", "offsets["];
    no_barrier_before_the_starts_are_read: Operation::Map, SCATTER, "  start_segments(params, sStarts, sSums);\n  ptx::syncthreads();"
        => "  start_segments(params, sStarts, sSums);", ["not ordered", "nothing has written"];
    no_barrier_before_the_sums_are_read: Operation::Map, SCATTER, "  ptx::syncthreads();\n#pragma unroll" => "#pragma unroll",
        ["not ordered", "nothing has written"];
    sum_of_the_warps_after: Operation::Map, SCATTER, "if (w < warp) sum.before" => "if (w > warp) sum.before", ["offsets[", "row_route[", "outside"];
    expert_of_the_next_thread: Operation::Map, SCATTER, "ptx::thread_idx() * kExpertsPerThread;" => "ptx::thread_idx() * kExpertsPerThread + 1;",
        ["offsets[", "row_route[", "nothing has written"];

    padding_used_as_a_route: Operation::Gather, GATHER, "if (route < params.routes) return" => "if (route != 12345) return", ["outside"];
    token_of_the_next_route: Operation::Gather, GATHER, "route / params.top_k" => "(route + 1) / params.top_k", ["q[", "sf[", "outside"];
    route_taken_for_a_token: Operation::Gather, GATHER, "route / params.top_k" => "route", ["q[", "sf[", "outside"];
    rows_of_no_expert_written: Operation::Gather, USED, "  if (!used) return;" => "", ["outside", "of no expert was written", "q["];
    one_row_of_a_segment_missing: Operation::Gather, USED, "row < segment.row_end" => "row + 1 < segment.row_end", ["q[", "sf["];
    one_row_beyond_a_segment: Operation::Gather, USED, "row < segment.row_end" => "row <= segment.row_end", ["of no expert was written", "sf["];
    scales_of_the_wrong_layout: Operation::Gather, USED, "params.sf + g * params.sf_pitch + row" => "params.sf + row * params.k_blocks + g",
        ["sf[", "was written"];

    halves_exchanged: Operation::Swiglu, SWIGLU, "swiglu(gate.x[i], up.x[i], params.clamp)" => "swiglu(up.x[i], gate.x[i], params.clamp)", ["q[", "sf["];
    up_of_the_next_block: Operation::Swiglu, SWIGLU, "gX + static_cast<uint64_t>(params.k_blocks) * quant::kQuantizeBlock"
        => "gX + quant::kQuantizeBlock", ["q[", "sf["];
    weight_of_the_row_not_of_its_route: Operation::Swiglu, SWIGLU, "params.weights + route" => "params.weights + row", ["q[", "sf[", "outside"];
    weight_left_out: Operation::Swiglu, SWIGLU, "params.clamp) * weight" => "params.clamp)", ["q[", "sf["];
    padding_row_read: Operation::Swiglu, SWIGLU, "if (route >= params.routes) {" => "if (route >= params.routes && route != kPadding) {", ["outside"];
    gate_not_clamped: Operation::Swiglu, SWIGLU, "gate > clamp ? clamp : gate" => "gate", ["q[", "sf["];
    up_clamped_from_above_only: Operation::Swiglu, SWIGLU, "up > clamp ? clamp : up < -clamp ? -clamp : up" => "up > clamp ? clamp : up", ["q[", "sf["];
    sigmoid_of_the_wrong_sign: Operation::Swiglu, SWIGLU, "exp_f32(-x)" => "exp_f32(x)", ["q[", "sf["];
    masked_rows_ignored: Operation::Swiglu, USED, "used.max_rows != 0" => "false", ["q[", "sf[", "was written", "outside"];

    weight_of_the_next_route: Operation::Combine, COMBINE, "params.weights + route0 + i)" => "params.weights + route0 + i + 1)", ["out[", "outside"];
    dropped_route_used_as_a_row: Operation::Combine, COMBINE, "if (row[i] >= params.rows) continue;" => "", ["outside"];
    missing_row_unreported: Operation::Combine, COMBINE, "} else if (row[i] != kDropped) {" => "} else if (false) {", ["unreported"];
    dropped_route_reported: Operation::Combine, COMBINE, "} else if (row[i] != kDropped) {" => "} else {", ["rows of an expert"];
    routes_in_descending_order: Operation::Combine, COMBINE, "      if (row[i] < params.rows) {\n        add_piece(sum, weight[i], v[i]);\n      } else if (row[i]"
        => "      const uint32_t j = kRoutesInFlight - 1 - i;\n      if (row[j] < params.rows) {\n        add_piece(sum, weight[j], v[j]);\n      } else if (row[j]",
        ["out["];
    routes_after_the_fourth_lost: Operation::Combine, COMBINE, "k0 < params.top_k; k0 += kRoutesInFlight" => "k0 < 1; k0 += kRoutesInFlight", ["out["];
    routes_beyond_the_last: Operation::Combine, COMBINE, "k0 + i < params.top_k ? ptx::ldg_u32(params.route_row + route0 + i) : kDropped"
        => "ptx::ldg_u32(params.route_row + route0 + i)", ["out[", "outside"];
    residual_before_shared: Operation::Combine, COMBINE, "ptx::ldg_v4_u32(params.shared + token * params.shared_pitch + column)"
        => "ptx::ldg_v4_u32(params.residual + token * params.residual_pitch + column)", ["out["];
    columns_exchanged_in_a_pair: Operation::Combine, COMBINE, "ptx::cvt_bf16x2(sum.x[1], sum.x[0])" => "ptx::cvt_bf16x2(sum.x[0], sum.x[1])", ["out["];
    two_roundings: Operation::Combine, COMBINE, "  if (params.shared != nullptr) {"
        => "  for (float& x : sum.x) x = ptx::bf16_lo_f32(ptx::cvt_bf16x2(0.0f, x));\n  if (params.shared != nullptr) {", ["out["];
    no_fma: Operation::Combine, COMBINE, "ptx::fma_rn(weight, ptx::bf16_lo_f32(pairs[i / 2]), sum.x[i]);"
        => "weight * ptx::bf16_lo_f32(pairs[i / 2]) + sum.x[i];", ["out["];
    tokens_past_the_end: Operation::Combine, COMBINE, "  if (token >= params.tokens) return;" => "", ["outside"];
}
