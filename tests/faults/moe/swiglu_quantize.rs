//! Faults in SwiGLU.

use check::case::{Cases, boxed};
use check::moe::expert_map::ExpertMapCase;
use check::moe::swiglu_quantize::SwigluQuantizeCase;
use check::moe::{LAYOUTS, Routing};
use deepseek_kernels::quant::ScaleFormat;

use crate::Trial;

pub const SWIGLU: Trial = Trial::Cases(activate);

fn activate() -> Cases {
    let case = |layout| {
        let map = ExpertMapCase::new((23, 3, 5)).laid_out(layout);
        let map = ExpertMapCase { routing: Routing::Strangers, seed: 2, ..map };
        let case = SwigluQuantizeCase::new(map, 256);
        SwigluQuantizeCase { clamp: Some(6.0), weighted: true, format: ScaleFormat::Fp32, ..case }
    };
    boxed(LAYOUTS.map(case))
}

faults! {
    halves_exchanged: SWIGLU,
        "swiglu(gate.x[i], up.x[i], params.clamp)" => "swiglu(up.x[i], gate.x[i], params.clamp)", ["q[", "sf["];
    up_of_the_next_block: SWIGLU, "gX + static_cast<uint64_t>(params.k_blocks) *" => "gX +", ["q[", "sf["];
    weight_of_the_row_not_of_its_route: SWIGLU,
        "pitched(route," => "pitched(static_cast<uint32_t>(row),", ["q[", "sf[", "outside"];
    weights_of_another_pitch: SWIGLU,
        "params.top_k, params.weights_pitch" => "params.top_k, params.weights_pitch + 1", ["q[", "sf[", "outside"];
    weights_without_their_pitch: SWIGLU,
        "params.top_k, params.weights_pitch" => "params.top_k, params.top_k", ["q[", "sf["];
    weight_left_out: SWIGLU, "params.clamp) * weight" => "params.clamp)", ["q[", "sf["];
    padding_row_read: SWIGLU, "route >= params.routes" => "route >= params.routes && route != kPadding", ["outside"];
    gate_not_clamped: SWIGLU, "gate > clamp ? clamp : gate" => "gate", ["q[", "sf["];
    up_clamped_from_above_only: SWIGLU, "up < -clamp ? -clamp : up" => "up", ["q[", "sf["];
    sigmoid_of_the_wrong_sign: SWIGLU, "float swiglu ... exp_f32(-x)" => "exp_f32(x)", ["q[", "sf["];
    masked_rows_ignored: SWIGLU, "used.max_rows != 0" => "false", ["q[", "sf[", "was written", "outside"];
}
