//! Faults in the quantisers and in the transposition of scales.

use check::case::boxed;
use check::quant::quantize_1x128::{Layout, Quantize1x128Case};
use check::quant::quantize_128x128::Quantize128x128Case;
use check::quant::rms_norm::{NormOutput, RmsNormCase};
use check::quant::transpose_scales::TransposeScalesCase;
use check::quant::{FORMATS, QuantizerClass};
use deepseek_kernels::quant::{NormRounding, ScaleFormat};

use crate::Trial;

pub fn trials() -> Vec<Trial> {
    vec![ROWS, BLOCKS, TRANSPOSE, NORM]
}

const ROWS: Trial = Trial::Cases(|| boxed(CLASSES.into_iter().flat_map(rows)));
const BLOCKS: Trial = Trial::Cases(|| boxed(CLASSES.map(blocks)));
const TRANSPOSE: Trial = Trial::Cases(|| boxed([TransposeScalesCase::new((70, 40 * 128))]));

/// More pieces than a CTA has threads, and codes whose last block ends within a warp.
const NORM: Trial = Trial::Cases(|| {
    let case = RmsNormCase { eps: 0.25, ..RmsNormCase::new((3, 2176)) };
    let fp8 = RmsNormCase { output: NormOutput::Fp8(ScaleFormat::PowerOfTwo), residual: false, ..case };
    boxed([case, RmsNormCase { rounding: NormRounding::EachStep, ..case }, fp8])
});

/// The formulas of a scale differ in few codes only: rows that have an amax of their own show them.
const CLASSES: [QuantizerClass; 2] = [QuantizerClass::Special, QuantizerClass::Ordinary];

fn rows(class: QuantizerClass) -> impl Iterator<Item = Quantize1x128Case> {
    let case =
        Quantize1x128Case { class, layout: Layout::RowMajor, seed: 5, ..Quantize1x128Case::new((75, 384)) };
    let cases = FORMATS.map(|format| Quantize1x128Case { format, ..case });
    cases.into_iter().chain([Quantize1x128Case { layout: Layout::MMajor, ..case }])
}

fn blocks(class: QuantizerClass) -> Quantize128x128Case {
    let format = ScaleFormat::Fp32;
    Quantize128x128Case { class, format, seed: 6, ..Quantize128x128Case::new((150, 384)) }
}

faults! {
    amax_over_half_the_lanes: ROWS, "warp_reduce<kLanesPerRow>" => "warp_reduce<kLanesPerRow / 2>", ["scales: "];
    amax_over_two_rows: ROWS, "warp_reduce<kLanesPerRow>" => "warp_reduce<2 * kLanesPerRow>", ["scales: "];
    blocks_past_the_end: ROWS, "if (!exists) return;" => "", ["not ordered", "outside", "scales: ", "codes: "];
    no_floor_under_amax: ROWS, "amax < kAmaxFloor ? kAmaxFloor : amax" => "amax", ["scales: "];
    amax_over_infinities: ROWS, "magnitude < 0x7f800000u ?" => "magnitude <= 0x7f800000u ?", ["scales: "];
    power_of_two_rounded_down: ROWS, "+ 0x007fffffu" => "", ["scales: "];
    multiplier_of_the_wrong_formula: ROWS, "kE4m3Max / floored" => "1.0f / scale", ["codes: "];
    codes_exchanged_in_a_pair: ROWS,
        "x[1] * multiplier, x[0] * multiplier" => "x[0] * multiplier, x[1] * multiplier", ["codes: "];
    infinities_unreported: ROWS, "if (!finite) report_fault" => "if (false) report_fault", ["got one of nothing"];
    report_by_an_ordinary_store: ROWS,
        "ptx::st_relaxed_sys_u32" => "ptx::stg_u32", ["host memory that the host uses meanwhile"];
    rows_past_the_end: BLOCKS, "if (row < params.n) x" => "x", ["outside", "scales: ", "read-only load of q"];
    no_barrier_before_amax_is_shared: BLOCKS, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    amax_of_one_warp: BLOCKS,
        "value = op(value, ptx::lds_f32(smem + warp * sizeof(float)))" => "", ["scales: "];
    no_barrier_before_the_transposed_read: TRANSPOSE,
        "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    transposed_tile_with_a_wrong_pitch: TRANSPOSE,
        "(x * kPitch + i)" => "(x * kTile + i)",
        ["scales: ", "nothing has written"];
    residual_not_written_back: NORM, "ptx::stg_v4_u32(gResidual, h);" => "", ["residual: residual["];
    sum_with_the_residual_unrounded: NORM,
        "return bf16_piece(h);" => "return sum;", ["bound: "];
    squares_of_the_first_pieces_only: NORM,
        "ptx::fma_rn(h[i].x[e]" => "i != 0 ? squares : ptx::fma_rn(h[i].x[e]", ["bound: ", "bits: "];
    squares_of_one_warp: NORM,
        "value = op(value, ptx::lds_f32(smem + warp * sizeof(float)))" => "", ["bound: "];
    no_barrier_before_the_sum_is_shared: NORM,
        "sizeof(float), value); ... ptx::syncthreads();" => "",
        ["not ordered", "nothing has written"];
    mean_without_eps: NORM, "mean + params.eps" => "mean", ["bound: "];
    weight_of_another_column: NORM, "params.weight + column" => "params.weight", ["bound: "];
    one_rounding_for_both: NORM, "params.rounding == NORM_ROUND_EACH_STEP" => "false", ["bits: out["];
    pieces_past_the_row_are_stored: NORM,
        "column(i) < params.hidden;" => "true;", ["outside", "not ordered", "around"];
    scales_of_the_first_block: NORM,
        "column / kQuantizeBlock * params.sf_pitch" => "0", ["scales: ", "not ordered"];
}
