//! Faults in the gather of an expert's rows.

use check::case::boxed;
use check::moe::expert_map::ExpertMapCase;
use check::moe::gather_quantize::GatherQuantizeCase;
use check::moe::{LAYOUTS, Routing};
use deepseek_kernels::quant::ScaleFormat;

use crate::Trial;

pub const GATHER: Trial = Trial::Cases(|| {
    boxed(LAYOUTS.map(|layout| {
        let map = ExpertMapCase::new((23, 3, 5)).laid_out(layout);
        let map = ExpertMapCase { routing: Routing::Strangers, seed: 2, ..map };
        GatherQuantizeCase { format: ScaleFormat::Fp32, ..GatherQuantizeCase::new(map, 256) }
    }))
});

faults! {
    padding_used_as_a_route: GATHER, "route < params.routes" => "route != 12345", ["outside"];
    token_of_the_next_route: GATHER, "route / params.top_k" => "(route + 1) / params.top_k", ["q[", "sf[", "outside"];
    route_taken_for_a_token: GATHER, "route / params.top_k" => "route", ["q[", "sf[", "outside"];
    rows_of_no_expert_written: GATHER, "if (!used) return;" => "", ["outside", "of no expert was written", "q["];
    one_row_of_a_segment_missing: GATHER, "row < segment.row_end" => "row + 1 < segment.row_end", ["q[", "sf["];
    one_row_beyond_a_segment: GATHER,
        "row < segment.row_end" => "row <= segment.row_end", ["of no expert was written", "sf["];
    scales_of_the_wrong_layout: GATHER,
        "params.sf + g * params.sf_pitch + row" => "params.sf + row * params.k_blocks + g", ["sf[", "was written"];
}
