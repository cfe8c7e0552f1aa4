//! Faults in the sum of what the experts made of a token.

use check::moe::Routing;
use check::moe::tokens::{Combination, combine_weights, map_rows, values};
use deepseek_kernels::{Device, bf16};
use oracles::moe::Combined;

use crate::Problem;

pub const COMBINE: Problem = Problem::Probe { kernels: &["combine"], run: combine };

fn combine(device: &Device) {
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

faults! {
    weight_of_the_next_route: COMBINE,
        "params.weights + route0 + i" => "params.weights + route0 + i + 1", ["out[", "outside"];
    dropped_route_used_as_a_row: COMBINE, "if (row[i] >= params.rows) continue;" => "", ["outside"];
    missing_row_unreported: COMBINE, "row[i] != kDropped" => "false", ["unreported"];
    dropped_route_reported: COMBINE, "if (row[i] != kDropped)" => "", ["rows of an expert"];
    routes_in_descending_order: COMBINE,
        "if (row[i] < params.rows) {" => "const uint32_t j = kRoutesInFlight - 1 - i; if (row[j] < params.rows) {",
        "add_piece(sum, weight[i], v[i])" => "add_piece(sum, weight[j], v[j])",
        "row[i] != kDropped" => "row[j] != kDropped",
        ["out["];
    routes_after_the_fourth_lost: COMBINE, "k0 < params.top_k" => "k0 < 1", ["out["];
    routes_beyond_the_last: COMBINE,
        "k0 + i < params.top_k ?" => "", "route0 + i) : kDropped" => "route0 + i)", ["out[", "outside"];
    residual_before_shared: COMBINE,
        "params.shared + token * params.shared_pitch" => "params.residual + token * params.residual_pitch", ["out["];
    columns_exchanged_in_a_pair: COMBINE,
        "ptx::cvt_bf16x2(x[1], x[0])" => "ptx::cvt_bf16x2(x[0], x[1])", ["out["];
    two_roundings: COMBINE,
        "if (params.shared != nullptr)"
            => "for (float& x : sum.x) x = ptx::bf16_lo_f32(ptx::cvt_bf16x2(0.0f, x)); if (params.shared != nullptr)",
        ["out["];
    no_fma: COMBINE,
        "ptx::fma_rn(weight, y.x[i], sum.x[i])" => "weight * y.x[i] + sum.x[i]",
        ["out["];
    tokens_past_the_end: COMBINE, "if (token >= params.tokens) return;" => "", ["outside"];
}
