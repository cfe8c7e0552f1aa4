//! Faults in the gate: logits, choice of experts.

use check::router::gate::{self, UNWRITTEN, check_select, compare};
use check::router::gate_model;
use deepseek_kernels::router::{GateSpec, GroupScore, Scoring};
use deepseek_kernels::{Device, bf16};
use oracles::router::{GateOptions, gate_logits, gate_select};

use super::numbers;
use crate::Problem;

pub const PROBLEMS: &[Problem] = &[SELECT, ROUTE];

const SELECT: Problem = Problem::Probe { kernels: &["gate_logits", "gate_select"], run: select };
const ROUTE: Problem = Problem::Probe { kernels: &["gate_logits", "gate_select"], run: route };

/// Three groups of five of eight; ties, biases that are all negative, NaN, padding, a shared expert.
const SPEC: GateSpec = GateSpec {
    tokens: 37,
    hidden: 2112,
    experts: 72,
    top_k: 6,
    groups: 8,
    kept_groups: 3,
    shared: 1,
    scoring: Scoring::Sigmoid,
    group_score: GroupScore::TopTwoSum,
    normalize: true,
    route_scale: 2.5,
};

fn select(device: &Device) {
    let experts = SPEC.experts;
    let mut logits = numbers(SPEC.tokens * experts, 1);
    logits.chunks_mut(experts).step_by(3).flatten().for_each(|x| *x = (3.0 * *x).round());
    logits.iter_mut().skip(5 * experts).step_by(31).for_each(|x| *x = f32::NAN);
    logits[4 * experts..5 * experts].fill(0.0);
    let bias: Vec<f32> = numbers(experts, 2).iter().map(|b| 0.3 * b - 1.5).collect();
    let mask: Vec<u32> = (0..SPEC.tokens as u32).map(|t| t % 5).collect();
    check_select(device, &SPEC, &logits, GateOptions::default());
    check_select(
        device,
        &SPEC,
        &logits,
        GateOptions { bias: Some(&bias), mask: Some(&mask), fixed_ids: None },
    );
    let softmax =
        GateSpec { scoring: Scoring::Softmax, group_score: GroupScore::Max, normalize: false, ..SPEC };
    check_select(device, &softmax, &logits, GateOptions::default());

    let mut fixed: Vec<i32> = (0..SPEC.tokens * SPEC.top_k).map(|i| (i * 7 % experts) as i32).collect();
    fixed[3] = -1;
    fixed[7] = 72;
    check_select(device, &SPEC, &logits, GateOptions { fixed_ids: Some(&fixed), ..Default::default() });
}

fn route(device: &Device) {
    let GateSpec { tokens, hidden, experts, .. } = SPEC;
    let x: Vec<bf16> = numbers(tokens * hidden, 3).into_iter().map(bf16::from_f32).collect();
    let w = numbers(experts * hidden, 4);
    let (routed, partial) = gate::route(device, &SPEC, (&x, &w), f32::NAN);
    assert!(partial.iter().all(|x| x.to_bits() != UNWRITTEN.to_bits()), "wrong workspace");
    let logits = gate_logits(&x, &w, tokens, experts, hidden).expect("reference");
    let expected = gate_select(&gate_model(&SPEC), &logits, GateOptions::default()).expect("reference");
    compare(&SPEC, &routed, &expected);
}

// The choice of experts.
faults! {
    group_score_is_the_best_alone: SELECT,
        "if (second.key == 0) return first.key" => "return first.key", ["wrong experts"];
    group_score_counts_one_expert_twice: SELECT, "&& gate_expert(i) != first.expert" => "", ["wrong experts"];
    other_groups_are_masked_with_zero: SELECT,
        "== 0) rKey[i] = 0" => "== 0) rKey[i] = order_key(0.0f)", ["wrong experts"];
    one_group_too_many: SELECT, "i < params.kept_groups" => "i <= params.kept_groups", ["wrong experts"];
    a_group_is_kept_twice: SELECT, "if (lane == group) of_lane = 0;" => "", ["wrong experts"];
    groups_of_equals_highest_first: SELECT,
        "ptx::reduce_min_u32(of_lane == key ? lane : UINT32_MAX)" => "ptx::reduce_max_u32(of_lane == key ? lane : 0)",
        ["wrong experts"];
    bias_in_the_weights: SELECT,
        "const float share" => "mine.weight += params.bias != nullptr ? 0.01f : 0.0f; const float share",
        ["wrong weights"];
    no_bias: SELECT, "c += ptx::ldg_f32(params.bias + gate_expert(i))" => "c += 0.0f", ["wrong experts"];
    scale_before_the_division: SELECT,
        "mine.weight / (sum + 1e-20f)" => "mine.weight * params.route_scale / (sum + 1e-20f) / params.route_scale",
        ["wrong weights"];
    weights_of_a_sum_in_another_order: SELECT, "sum += score" => "sum = score + sum * 1.0000001f", ["wrong weights"];
    nan_is_chosen: SELECT,
        "c > -kGateInfinity ? order_key(c) : 0" => "c == c ? order_key(c) : UINT32_MAX", ["wrong experts"];
    nan_in_the_softmax: SELECT, "if (rS[i] == rS[i]) sum +=" => "sum +=", ["wrong scores"];
    softmax_without_the_largest: SELECT, "exp_f32(rS[i] - largest)" => "exp_f32(rS[i])", ["wrong scores"];
    padding_is_routed: SELECT, "params.mask != nullptr &&" => "false &&", ["wrong experts"];
    bad_id_unreported: SELECT, "if (id != -1 &&" => "if (false &&", ["unreported"];
    bad_id_is_kept: SELECT, "static_cast<uint32_t>(id) < params.experts" => "true", ["wrong experts"];
    shared_experts_start_one_too_high: SELECT,
        "params.experts + lane - params.top_k" => "params.experts + lane - params.top_k + 1", ["wrong experts"];
    chosen_twice: SELECT, "if (gate_expert(i) == best.expert) rKey[i] = 0;" => "", ["wrong experts"];
    of_equals_the_highest: SELECT, "rKey[i] > mine.key &&" => "rKey[i] >= mine.key &&", ["wrong experts"];
    of_equals_the_highest_lane: SELECT,
        "ptx::reduce_min_u32(mine.key == key ? mine.expert : UINT32_MAX)"
            => "ptx::reduce_max_u32(mine.key == key ? mine.expert : 0)",
        ["wrong experts"];
    negative_scores_in_reverse: SELECT,
        "? ~bits : bits | 0x80000000u" => "? bits & 0x7fffffffu : bits | 0x80000000u", ["wrong experts"];
    exponential_without_its_low_part: SELECT, "r = ptx::fma_rn(n, -kLn2Low, r);" => "", ["wrong scores"];
}

// The logits.
faults! {
    chunk_starts_from_the_previous: ROUTE, "tile.chunk * GATE_CHUNK" => "0", ["wrong scores"];
    last_step_dropped: ROUTE,
        "k < last; k += Config::kBlockK" => "k + Config::kBlockK < last; k += Config::kBlockK", ["wrong scores"];
    no_barrier_before_the_products: ROUTE,
        "store_step(next); ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    no_barrier_before_the_next_step: ROUTE, "multiply_step<Config>(rSum); ... ptx::syncthreads();" => "", ["not ordered"];
    tokens_past_the_end: ROUTE,
        "if (tile.t0 + row < params.t) step" => "step", ["outside", "of the same launch has written"];
    experts_past_the_end: ROUTE,
        "if (expert < params.experts) ptx::stg_f32" => "ptx::stg_f32", ["race", "outside", "wrong scores"];
    elements_exchanged_in_a_pair: ROUTE,
        "ptx::bf16_lo_f32(v.x), ptx::bf16_hi_f32(v.x)" => "ptx::bf16_hi_f32(v.x), ptx::bf16_lo_f32(v.x)", ["wrong scores"];
    chain_not_fused: ROUTE,
        "ptx::fma_rn(x[i].value[step], w[j].value[step], rSum[i][j])"
            => "x[i].value[step] * w[j].value[step] + rSum[i][j]",
        ["wrong scores"];
    rows_overlap_in_shared_memory: ROUTE,
        "row * GateLogitsTile<Config>::kRowPitch" => "row * (GateLogitsTile<Config>::kRowPitch - 8)", ["not ordered"];
    chunks_in_another_order: ROUTE,
        "logits + chunk * params.chunk_stride"
            => "logits + (params.chunks - 1 - chunk) * params.chunk_stride + 0 * chunk",
        ["wrong scores"];
    only_the_first_chunk: ROUTE, "chunk < params.chunks" => "chunk < 1", ["wrong scores"];
}
