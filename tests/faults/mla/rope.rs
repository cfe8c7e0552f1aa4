//! Faults in the rotation by position.

use std::sync::Arc;

use check::mla::ROPE;
use check::mla::rope::{RopeCase, RopeProblem};
use deepseek_kernels::bf16;

use crate::{Changed, Trial};

pub const TRIALS: &[Trial] = &[ROTATE, WIDE];

const ROTATE: Trial = Trial::Changed(rotate);
const WIDE: Trial = Trial::Wide(|| {
    let mut problem = RopeCase::new(15, 3, 40).problem().expect("inputs");
    problem.positions[7] = i32::MIN;
    vec![(Box::new(problem.case), Arc::new(problem))]
});

fn rotate() -> Vec<Changed> {
    let drawn = |case: RopeCase| case.problem().expect("inputs");
    let good = drawn(RopeCase::new(15, 3, 40));
    let mut strange = good.clone();
    strange.positions[7] = 40;
    // Products that cancel, but for what an fma would not round away.
    let cancelling = RopeProblem {
        x: vec![bf16::from_f32(1.007_812_5); 3 * ROPE],
        positions: vec![0],
        table: vec![std::f32::consts::FRAC_1_SQRT_2; ROPE],
        ..drawn(RopeCase::new(1, 3, 1))
    };
    let changed = |problem: RopeProblem| -> Changed { (Box::new(problem.case), Arc::new(problem)) };
    [good, strange, cancelling].map(changed).into()
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
    position_of_the_head: ROTATE, "params.positions, 0, token" => "params.positions, 0, head", ["out[", "got one of nothing"];
    narrow_positions_read_as_wide: ROTATE, "indices.words_per_index == 1" => "false", ["outside"];
    heads_as_far_apart_as_results: ROTATE,
        "head * params.x_head_stride" => "head * params.out_head_stride", ["out[", "outside"];
    tokens_of_results_too_close: ROTATE,
        "token * params.out_token_stride" => "token * params.out_head_stride", ["not ordered"];
    position_not_checked: ROTATE, "position >= params.table_rows" => "false", ["out[", "outside"];
    position_unreported: ROTATE, "report_fault(params.error_words, FAULT_POSITION);" => "", ["got one of nothing"];
    stranger_left_unwritten: ROTATE, "ptx::stg_v4_u32(gOut, {});" => "", ["out["];
    heads_past_the_end: ROTATE, "if (token >= params.tokens) return;" => "", ["outside"];
}

// Positions of 64 bits.
faults! {
    high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["out["];
    words_exchanged: WIDE,
        "ptx::ldg_u32(gWords)" => "ptx::ldg_u32(gWords + indices.words_per_index - 1)", ["out[", "got one of"];
    wide_positions_read_as_narrow: WIDE, "column * indices.words_per_index" => "column", ["out[", "got one of"];
}
