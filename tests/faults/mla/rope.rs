//! Faults in the rotation by position.

use check::mla::rope::{ROPE, Rotation, Strides, values};
use deepseek_kernels::mla::{RopeTable, YarnRope};
use deepseek_kernels::{Device, bf16};

use crate::Problem;

pub const ROTATE: Problem = Problem::Probe { kernels: &["rope"], run: rotate };

fn rotate(device: &Device) {
    let table = RopeTable::yarn(YarnRope::DEEPSEEK_V3).and_then(|table| table.cos_sin(40)).expect("sensible");
    let x = values(15 * 3 * ROPE, 1);
    let check = |positions: &[i32], table: &[f32], x: &[bf16]| {
        let (from, to) = (Strides::QUERY, Strides { token_gap: 16, ..Strides::ABSORBED });
        Rotation { heads: 3, x, positions, table, from, to }.check(device);
    };
    let positions: Vec<i32> = (0..15).map(|t| t * 23 % 40).collect();
    check(&positions, &table, &x);
    let mut strange = positions.clone();
    strange[7] = 40;
    check(&strange, &table, &x);
    // Products that cancel, but for what an fma would not round away.
    let x = [bf16::from_f32(1.007_812_5); 3 * ROPE];
    check(&[0], &[std::f32::consts::FRAC_1_SQRT_2; ROPE], &x);
}

faults! {
    turned_backwards: ROTATE,
        "x * sin + y * cos, x * cos - y * sin" => "y * cos - x * sin, x * cos + y * sin", ["out["];
    results_exchanged: ROTATE,
        "x * sin + y * cos, x * cos - y * sin" => "x * cos - y * sin, x * sin + y * cos", ["out["];
    cos_and_sin_exchanged: ROTATE,
        "uint32_t cos_bits, uint32_t sin_bits" => "uint32_t sin_bits, uint32_t cos_bits", ["out["];
    fused: ROTATE, "x * cos - y * sin" => "ptx::fma_rn(x, cos, -(y * sin))", ["out["];
    halves_as_pairs: ROTATE,
        "rotate(x.y, a.z, a.w), rotate(x.z, b.x, b.y)" => "rotate(x.z, a.z, a.w), rotate(x.y, b.x, b.y)", ["out["];
    angles_of_the_next_position: ROTATE,
        "position * params.table_pitch" => "(position + 1) * params.table_pitch", ["out[", "outside"];
    angles_of_the_first_pairs: ROTATE, "params.table_pitch + column" => "params.table_pitch", ["out["];
    position_of_the_head: ROTATE, "params.positions + token" => "params.positions + head", ["out[", "unreported"];
    heads_as_far_apart_as_results: ROTATE,
        "head * params.x_head_stride" => "head * params.out_head_stride", ["out[", "outside"];
    tokens_of_results_too_close: ROTATE,
        "token * params.out_token_stride" => "token * params.out_head_stride", ["not ordered"];
    position_not_checked: ROTATE, "position >= params.table_rows" => "false", ["out[", "outside"];
    position_unreported: ROTATE, "report_fault(params.error_words, FAULT_POSITION);" => "", ["unreported"];
    stranger_left_unwritten: ROTATE, "ptx::stg_v4_u32(gOut, {});" => "", ["out["];
    heads_past_the_end: ROTATE, "if (token >= params.tokens) return;" => "", ["outside"];
}
