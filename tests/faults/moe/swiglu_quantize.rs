//! Faults in SwiGLU.

use check::moe::Routing;
use check::moe::rows::{Batch, LAYOUTS, Swiglu, activations, weights};
use deepseek_kernels::Device;
use deepseek_kernels::quant::ScaleFormat;

use crate::Problem;

pub const SWIGLU: Problem = Problem::Probe { kernels: &["swiglu_quantize"], run: activate };

fn activate(device: &Device) {
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

faults! {
    halves_exchanged: SWIGLU,
        "swiglu(gate.x[i], up.x[i], params.clamp)" => "swiglu(up.x[i], gate.x[i], params.clamp)", ["q[", "sf["];
    up_of_the_next_block: SWIGLU, "gX + static_cast<uint64_t>(params.k_blocks) *" => "gX +", ["q[", "sf["];
    weight_of_the_row_not_of_its_route: SWIGLU,
        "params.weights + route" => "params.weights + row", ["q[", "sf[", "outside"];
    weight_left_out: SWIGLU, "params.clamp) * weight" => "params.clamp)", ["q[", "sf["];
    padding_row_read: SWIGLU, "route >= params.routes" => "route >= params.routes && route != kPadding", ["outside"];
    gate_not_clamped: SWIGLU, "gate > clamp ? clamp : gate" => "gate", ["q[", "sf["];
    up_clamped_from_above_only: SWIGLU, "up < -clamp ? -clamp : up" => "up", ["q[", "sf["];
    sigmoid_of_the_wrong_sign: SWIGLU, "float swiglu ... exp_f32(-x)" => "exp_f32(x)", ["q[", "sf["];
    masked_rows_ignored: SWIGLU, "used.max_rows != 0" => "false", ["q[", "sf[", "was written", "outside"];
}
