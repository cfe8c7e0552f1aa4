//! Faults in the sum of what the experts made of a token.

use check::case::{Cases, boxed};
use check::moe::Routing;
use check::moe::combine::CombineCase;
use check::moe::expert_map::ExpertMapCase;

use crate::Trial;

pub const COMBINE: Trial = Trial::Cases(combine);

/// All that may be added; then a row that does not exist; then sums that the order of routes and each fma decide.
fn combine() -> Cases {
    let map = ExpertMapCase { routing: Routing::Strangers, seed: 4, ..ExpertMapCase::new((21, 6, 9)) };
    let case = CombineCase::new(map, 72);
    let routed = ExpertMapCase { routing: Routing::Uniform, ..map };
    let cancelling = CombineCase { map: routed, shared: false, residual: false, cancelling: true, ..case };
    boxed([case, CombineCase { astray: true, ..case }, cancelling])
}

faults! {
    weight_of_the_next_route: COMBINE,
        "weight0 + k0 + i" => "weight0 + k0 + i + 1", ["out[", "outside"];
    dropped_route_used_as_a_row: COMBINE, "if (row[i] >= params.rows) continue;" => "", ["outside"];
    missing_row_unreported: COMBINE, "row[i] != kDropped" => "false", ["got one of nothing"];
    dropped_route_reported: COMBINE, "if (row[i] != kDropped)" => "", ["got one of rows of an expert"];
    routes_in_descending_order: COMBINE,
        "if (row[i] < params.rows) {" => "const uint32_t j = kRoutesInFlight - 1 - i; if (row[j] < params.rows) {",
        "add_piece(sum, weight[i], v[i])" => "add_piece(sum, weight[j], v[j])",
        "row[i] != kDropped" => "row[j] != kDropped",
        ["out["];
    routes_after_the_fourth_lost: COMBINE, "k0 < params.top_k" => "k0 < 1", ["out["];
    routes_beyond_the_last: COMBINE,
        "k0 + i < params.top_k ?" => "", "row0 + k0 + i) : kDropped" => "row0 + k0 + i)", ["out[", "outside"];
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
    route_row_without_its_pitch: COMBINE,
        "token * params.route_row_pitch" => "token * params.top_k", ["out[", "got one of"];
    weights_without_their_pitch: COMBINE, "token * params.weights_pitch" => "token * params.top_k", ["out["];
    weights_at_the_pitch_of_rows: COMBINE,
        "token * params.weights_pitch" => "token * params.route_row_pitch", ["out[", "outside"];
    tokens_past_the_end: COMBINE, "if (token >= params.tokens) return;" => "", ["outside"];
}
