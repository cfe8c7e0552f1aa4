//! Faults in the gate: logits, choice of experts.

use crate::case::{Cases, boxed};
use crate::planted::{Changed, Trial, faults};
use crate::router::gate::{GateCase, GateInputs};
use deepseek_kernels::router::{GateSpec, GroupScore, Scoring};
use std::sync::Arc;

const SELECT: Trial = Trial::Cases(select);
/// Ids that are given, of 64 bits, one of them none that fits 32.
const WIDE: Trial = Trial::Wide(|| {
    let mut problem = GateCase { fixed: true, ..GateCase::select(SPEC) }.problem();
    problem.fixed_ids.iter_mut().for_each(|ids| ids[9] = i32::MIN);
    vec![(Box::new(problem.case), Arc::new(problem))]
});
/// Biases that nothing can be compared with, in a router that is otherwise good.
const BIASES: Trial = Trial::Changed(|| {
    let changed = |bias: f32| -> Changed {
        let mut problem = GateCase { bias: true, ..GateCase::new(spec(5)) }.problem();
        problem.bias.iter_mut().for_each(|biases| biases[41] = bias);
        (Box::new(problem.case), Arc::new(problem))
    };
    [f32::NAN, f32::INFINITY].map(changed).into()
});
/// What is not finite and yet nothing to tell of: an expert that is left out, padding.
const LEFT_OUT: Trial = Trial::Changed(|| {
    let mut problem = GateCase { bias: true, mask: true, ..GateCase::select(spec(5)) }.problem();
    problem.bias.iter_mut().for_each(|biases| biases[41] = f32::NEG_INFINITY);
    if let GateInputs::Logits(logits) = &mut problem.inputs {
        logits[3] = f32::NAN;
    }
    vec![(Box::new(problem.case), Arc::new(problem))]
});
const FAR: Trial = Trial::Far(|| boxed([GateCase::new(SPEC)]));
/// More experts than the usual kernel has registers for.
const MANY: Trial =
    Trial::Cases(|| boxed([GateCase::select(GateSpec::new(9, 32, 896, 16).groups(14).kept_groups(6))]));
const ROUTE: Trial = Trial::Cases(|| boxed([GateCase::new(SPEC)]));
/// Tokens enough for the larger tile.
const ROUTE_MANY: Trial = Trial::Cases(|| boxed([GateCase::new(spec(69))]));

/// Three groups of five of eight; ties, biases that are all negative, NaN, padding, a shared expert.
const fn spec(tokens: usize) -> GateSpec {
    GateSpec::new(tokens, 2112, 72, 6).groups(8).kept_groups(3).shared(1).route_scale(2.5)
}
const SPEC: GateSpec = spec(37);

fn select() -> Cases {
    let plain = GateCase::select(SPEC);
    let softmax = SPEC.scoring(Scoring::Softmax).group_score(GroupScore::Max).normalize(false);
    boxed([
        plain,
        GateCase { bias: true, mask: true, ..plain },
        GateCase::select(softmax),
        GateCase { fixed: true, ..plain },
        GateCase::select(SPEC.scoring(Scoring::SqrtSoftplus)),
    ])
}

faults! {
    rows_of_weights_counted_in_32_bits: FAR,
        "expert * params.w_pitch" => "static_cast<uint32_t>(expert * params.w_pitch)", ["logits["];
    // The choice of experts.
    group_score_is_the_best_alone: SELECT,
        "if (second.key == 0) return first.key" => "return first.key", ["experts: ids["];
    group_score_counts_one_expert_twice: SELECT, "&& gate_expert(i) != first.expert" => "", ["experts: ids["];
    other_groups_are_masked_with_zero: SELECT,
        "== 0) rKey[i] = 0" => "== 0) rKey[i] = order_key(0.0f)", ["experts: ids["];
    one_group_too_many: SELECT, "i < params.kept_groups" => "i <= params.kept_groups", ["experts: ids["];
    a_group_is_kept_twice: SELECT, "if (lane == group) of_lane = 0;" => "", ["experts: ids["];
    groups_of_equals_highest_first: SELECT,
        "ptx::reduce_min_u32(of_lane == key ? lane : UINT32_MAX)" => "ptx::reduce_max_u32(of_lane == key ? lane : 0)",
        ["experts: ids["];
    bias_in_the_weights: SELECT,
        "const float share" => "mine.weight += params.bias != nullptr ? 0.01f : 0.0f; const float share",
        ["weights: weights["];
    no_bias: SELECT, "bias = ptx::ldg_f32(params.bias + gate_expert(i))" => "bias = 0.0f", ["experts: ids["];
    scale_before_the_division: SELECT,
        "mine.weight / (sum + 1e-20f)" => "mine.weight * params.route_scale / (sum + 1e-20f) / params.route_scale",
        ["weights: weights["];
    weights_summed_in_two_chains: SELECT,
        "float sum = 0.0f; for (uint32_t route" => "float sum = 0.0f, odd = 0.0f; for (uint32_t route",
        "sum += score;" => "(route % 2 != 0 ? odd : sum) += score;",
        "(sum + 1e-20f)" => "(sum + odd + 1e-20f)",
        ["weights: weights["];
    route_scale_divided_first: SELECT,
        "share * params.route_scale"
            => "(params.normalize != 0 ? mine.weight * (params.route_scale / (sum + 1e-20f)) : share * params.route_scale)",
        ["weights: weights["];
    inverse_of_the_sum: SELECT,
        "mine.weight / (sum + 1e-20f)" => "mine.weight * (1.0f / (sum + 1e-20f))", ["weights: weights["];
    sum_of_weights_without_its_floor: SELECT, "sum + 1e-20f" => "sum", ["weights: weights["];
    sigmoid_of_the_other_exponential: SELECT,
        "sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }"
            => "sigmoid_f32(float x) { const float e = exp_f32(x); return e / (1.0f + e); }",
        ["scores: scores["];
    softmax_by_the_inverse_of_its_sum: SELECT,
        "rS[i] = rS[i] / sum" => "rS[i] = rS[i] * (1.0f / sum)", ["scores: scores["];
    softmax_of_the_nearest_lanes_first: SELECT,
        "mask = Lanes / 2; mask > 0; mask /= 2" => "mask = 1; mask < Lanes; mask *= 2", ["scores: scores["];
    experts_of_the_usual_kernel_alone: MANY,
        "route_token<Config::kExperts / 32>(params, t)" => "route_token<16>(params, t)", ["scores", "ids["];
    softplus_that_overflows: SELECT,
        "const bool positive = x > 0.0f;" => "const bool positive = false;", ["scores: scores["];
    softplus_without_its_root: SELECT, "ptx::sqrt_rn(positive ? x + log : log)" => "(positive ? x + log : log)", ["scores: scores["];
    softplus_is_linear_from_the_start: SELECT, "positive ? x + log : log" => "positive ? x : log", ["scores: scores["];
    sigmoid_for_softplus: SELECT, "rS[i] = sqrt_softplus_f32(rS[i])" => "rS[i] = sigmoid_f32(rS[i])", ["scores: scores["];
    four_elements_descending: ROUTE,
        "ptx::fma_rn(x[i].value[step], w[j].value[step], rSum[i][j])"
            => "ptx::fma_rn(x[i].value[3 - step], w[j].value[3 - step], rSum[i][j])",
        ["logits: logits["];
    elements_of_a_step_descending: ROUTE,
        "gate_row<Config>(ty + i * Tile::kTokenThreads) + k * sizeof(float)"
            => "gate_row<Config>(ty + i * Tile::kTokenThreads) + (Config::kBlockK - 4 - k) * sizeof(float)",
        "gate_row<Config>(Config::kBlockTokens + tx + j * Tile::kExpertThreads) + k * sizeof(float)"
            => "gate_row<Config>(Config::kBlockTokens + tx + j * Tile::kExpertThreads) + (Config::kBlockK - 4 - k) * sizeof(float)",
        ["logits: logits["];
    nan_is_chosen: SELECT,
        "c > -kGateInfinity ? order_key(c) : 0" => "c == c ? order_key(c) : UINT32_MAX", ["experts: ids["];
    nan_in_the_softmax: SELECT, "if (rS[i] == rS[i]) sum +=" => "sum +=", ["scores: scores["];
    softmax_without_the_largest: SELECT, "exp_f32(rS[i] - largest)" => "exp_f32(rS[i])", ["scores: scores["];
    padding_is_routed: SELECT, "params.mask != nullptr &&" => "false &&", ["experts: ids["];
    logits_unreported: SELECT,
        "finite && (gate_expert(i) >= params.experts || is_finite(rS[i]))" => "finite", ["got one of nothing"];
    logits_of_no_expert_reported: ROUTE,
        "gate_expert(i) >= params.experts || is_finite(rS[i])" => "is_finite(rS[i])", ["expected a report of nothing"];
    biases_unreported: BIASES, "sane && bias < kGateInfinity" => "sane", ["got one of nothing"];
    experts_left_out_reported: LEFT_OUT,
        "sane && bias < kGateInfinity" => "sane && is_finite(bias)", ["expected a report of nothing"];
    padding_reported: LEFT_OUT, "} else if (!sane) {" => "} if (!sane) {", ["expected a report of nothing"];
    bad_id_unreported: SELECT, "if (id != -1 &&" => "if (false &&", ["got one of Inf or NaN"];
    bad_id_is_kept: SELECT, "static_cast<uint32_t>(id) < params.experts" => "true", ["experts: ids["];
    narrow_ids_read_as_wide: SELECT, "indices.words_per_index - 1" => "1", ["outside"];
    high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["experts: ids[", "got one of nothing"];
    wide_ids_read_as_narrow: WIDE, "column * indices.words_per_index" => "column", ["experts: ids["];
    pitch_of_wide_ids_doubled: WIDE,
        "row * indices.pitch" => "row * indices.pitch * indices.words_per_index", ["experts: ids[", "outside"];
    ids_kept_of_the_first_token: SELECT,
        "params.fixed_ids, t, route" => "params.fixed_ids, 0, route", ["experts: ids["];
    ids_kept_without_their_pitch: SELECT,
        "params.fixed_ids, t, route" => "params.fixed_ids, 0, t * params.top_k + route", ["experts: ids["];
    shared_experts_start_one_too_high: SELECT,
        "params.experts + lane - params.top_k" => "params.experts + lane - params.top_k + 1", ["experts: ids["];
    chosen_twice: SELECT, "if (gate_expert(i) == best.expert) rKey[i] = 0;" => "", ["experts: ids["];
    of_equals_the_highest: SELECT, "rKey[i] > mine.key &&" => "rKey[i] >= mine.key &&", ["experts: ids["];
    of_equals_the_highest_lane: SELECT,
        "ptx::reduce_min_u32(mine.key == key ? mine.expert : UINT32_MAX)"
            => "ptx::reduce_max_u32(mine.key == key ? mine.expert : 0)",
        ["experts: ids["];
    negative_scores_in_reverse: SELECT,
        "? ~bits : bits | 0x80000000u" => "? bits & 0x7fffffffu : bits | 0x80000000u", ["experts: ids["];
    exponential_without_its_low_part: SELECT, "r = ptx::fma_rn(n, -kLn2Low, r);" => "", ["scores: scores["];

    // The logits.
    chunk_starts_from_the_previous: ROUTE, "tile.chunk * GATE_CHUNK" => "0", ["logits: logits["];
    last_step_dropped: ROUTE,
        "k < last; k += Config::kBlockK" => "k + Config::kBlockK < last; k += Config::kBlockK", ["logits: logits["];
    no_barrier_before_the_products: ROUTE,
        "store_step(next); ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    no_barrier_before_the_next_step: ROUTE_MANY, "multiply_step<Config>(rSum); ... ptx::syncthreads();" => "", ["not ordered"];
    tokens_past_the_end: ROUTE_MANY,
        "if (tile.t0 + row < params.t) step" => "step", ["outside", "of the same launch has written"];
    experts_past_the_end: ROUTE,
        "if (expert < params.experts) ptx::stg_f32" => "ptx::stg_f32", ["race", "outside", "logits: logits["];
    elements_exchanged_in_a_pair: ROUTE,
        "ptx::bf16_lo_f32(v.x), ptx::bf16_hi_f32(v.x)" => "ptx::bf16_hi_f32(v.x), ptx::bf16_lo_f32(v.x)", ["logits: logits["];
    chain_not_fused: ROUTE,
        "ptx::fma_rn(x[i].value[step], w[j].value[step], rSum[i][j])"
            => "x[i].value[step] * w[j].value[step] + rSum[i][j]",
        ["logits: logits["];
    rows_overlap_in_shared_memory: ROUTE,
        "row * GateLogitsTile<Config>::kRowPitch" => "row * (GateLogitsTile<Config>::kRowPitch - 8)", ["not ordered"];
    chunks_in_another_order: ROUTE,
        "logits + chunk * params.chunk_stride"
            => "logits + (params.chunks - 1 - chunk) * params.chunk_stride + 0 * chunk",
        ["scores: scores["];
    only_the_first_chunk: ROUTE, "chunk < params.chunks" => "chunk < 1", ["scores: scores["];
}
