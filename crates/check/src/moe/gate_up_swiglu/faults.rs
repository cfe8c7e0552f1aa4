//! Faults in what gate, up and SwiGLU have that the grouped GEMM has not: two panels of B, h that waits, codes on their way
//! out.

use crate::case::{Cases, boxed};
use crate::gemm::grouped_fp8_gemm::Assignment;
use crate::moe::gate_up_swiglu::GateUpSwigluCase;
use crate::planted::{Trial, faults};
use crate::quant::Rule;
use deepseek_kernels::F8E4M3;
use deepseek_kernels::moe::GateUpOrder;
use deepseek_kernels::table::moe::GATE_UP_INSTANCES;
use oracles::codec::encode_e4m3;
use oracles::gemm::{GemmClass, GemmInputs};
use std::sync::Arc;

const ONE: Trial = Trial::Cases(|| activate(64, 1));
const TWO_WARPGROUPS: Trial = Trial::Cases(|| activate(128, 1));
/// A cluster of two CTAs, each of which loads the gate or up for both.
const PAIRS: Trial = Trial::Cases(|| activate(128, 2));
/// No products between a block's codes and the next one's h.
const NO_K: Trial = Trial::Cases(|| boxed([GateUpSwigluCase::new(Assignment::ragged(&[40], 0), (1280, 0))]));
/// A last block that is half a tile.
const SHORT: Trial =
    Trial::Cases(|| boxed([GateUpSwigluCase::new(Assignment::ragged(&[70, 3], 1), (160, 200))]));
/// h on the border between two codes: gates so large that they are their own silu, and an up of two elements.
const BORDERS: Trial = Trial::Changed(|| {
    let case = GateUpSwigluCase::new(Assignment::ragged(&[3], 0), (128, 128));
    let case = GateUpSwigluCase { rule: Rule::FP32, ..case };
    let mut problem = case.clone().problem().expect("inputs");
    let GemmInputs { a, sfa, b, sfb, .. } = &mut problem.gemm.experts[0];
    let code = |x: f32| F8E4M3::from_bits(encode_e4m3(x));
    a.iter_mut().enumerate().for_each(|(i, x)| *x = code(if i % 128 < 2 { 1.0 } else { 0.0 }));
    b.iter_mut().enumerate().for_each(|(i, x)| {
        *x = code(match (i / 128, i % 128) {
            (0..128, 0) => 32.0,
            // The pair of 1.078125 and 0.80859375, times 256.
            (128, 0) => 256.0,
            (128, 1) => 20.0,
            (_, 0) => 192.0,
            (_, 1) => 15.0,
            _ => 0.0,
        });
    });
    [sfa, sfb].into_iter().flatten().for_each(|scale| *scale = 1.0);
    vec![(Box::new(case), Arc::new(problem))]
});
const UP_FIRST: Trial = Trial::Cases(|| {
    let case = GateUpSwigluCase::new(Assignment::ragged(&[70, 3], 0), (128, 128));
    boxed([GateUpSwigluCase { order: GateUpOrder::UpFirst, clamp: Some(0.5), ..case }])
});
/// NaN in some rows.
const NAN: Trial = Trial::Cases(|| {
    let mut case = GateUpSwigluCase::new(Assignment::ragged(&[11, 3], 1), (128, 256));
    case.gemm.class = GemmClass::NanCodes;
    boxed([case])
});
/// An infinite up, which the clamp leaves as it is.
const INFINITE_UP: Trial = Trial::Changed(|| {
    let case = GateUpSwigluCase::new(Assignment::ragged(&[11, 3], 1), (128, 128));
    let mut problem = GateUpSwigluCase { clamp: Some(0.5), ..case }.problem().expect("inputs");
    problem.gemm.experts[1].sfb[1] = f32::INFINITY;
    problem.case.gemm.class = GemmClass::SpecialScales;
    vec![(Box::new(problem.case.clone()), Arc::new(problem))]
});

/// Several blocks of several tiles, segments of any length; clamped.
fn activate(block_m: u32, cluster: u32) -> Cases {
    let instance = GATE_UP_INSTANCES.iter().find(|i| (i.block_m, i.cluster) == (block_m, cluster));
    let case = GateUpSwigluCase::new(Assignment::ragged(&[130, 0, 1, 67], 3), (256, 384));
    let case = GateUpSwigluCase { clamp: Some(0.5), rule: Rule::FP32, ..case };
    boxed([case.with(*instance.expect("an instance"))])
}

faults! {
    // Columns of gate and of up.
    up_where_the_gate_is: ONE,
        "Tile::kBBoxes, Config::kPanels - 1>" => "Tile::kBBoxes, 0>", ["q[", "sf["];
    gate_and_up_of_a_pair_exchanged: PAIRS, "sBoxes + box * (Bytes / Boxes)" => "sBoxes + (1 - box) * (Bytes / Boxes)", ["q[", "sf["];
    scale_of_up_missing: ONE,
        "static_cast<Next>(ceil_div(params.n, Config::kScaleColumns))" => "0", ["q[", "sf["];
    scale_of_gate_everywhere: ONE, "first_spans = 1;" => "first_spans = 2;", ["q[", "sf["];
    second_tile_is_the_first_again: ONE,
        "tile.column += second *" => "tile.column += 0 *", ["q[", "sf[", "nothing has written"];
    tiles_of_a_block_apart: ONE, "if (second != 0) blocks.advance();" => "blocks.advance();", ["q[", "sf[", "nothing has written", "mbarrier"];

    // The activation.
    gate_and_up_exchanged: ONE,
        "swiglu(ptx::bf16_lo_f32(gate), ptx::bf16_lo_f32(up)" => "swiglu(ptx::bf16_lo_f32(up), ptx::bf16_lo_f32(gate)",
        ["q[", "sf["];
    gate_is_always_first: UP_FIRST, "params.up_first != 0 ? second : first" => "first", ["q[", "sf["];
    up_is_always_second: UP_FIRST, "params.up_first != 0 ? first : second" => "second", ["q[", "sf["];
    gate_is_never_first: ONE,
        "params.up_first != 0 ? second : first" => "second", "params.up_first != 0 ? first : second" => "first", ["q[", "sf["];
    gate_not_rounded: ONE, "swiglu(ptx::bf16_lo_f32(gate)" => "swiglu(rD[r]", ["q[", "sf["];
    clamp_left_out: ONE, "ptx::bf16_hi_f32(up), params.clamp" => "ptx::bf16_hi_f32(up), 1e30f", ["q[", "sf["];
    up_before_the_quotient: ONE, "x / (1.0f + exp_f32(-x)) * y" => "x * y / (1.0f + exp_f32(-x))", ["sf["];
    up_not_rounded: ONE,
        "swiglu(ptx::bf16_lo_f32(gate), ptx::bf16_lo_f32(up)" => "swiglu(ptx::bf16_lo_f32(gate), rD[kSums / 2 + r]",
        ["sf["];
    multiplier_of_the_wrong_formula: BORDERS,
        "encode(h[i], of_row," => "encode(h[i], {of_row.scale, 1.0f / of_row.scale, false},", ["q["];
    columns_of_the_other_row: ONE, "h[r % 4 / 2] + kOwn" => "h[1 - r % 4 / 2] + kOwn", ["q[", "sf["];

    // h that waits.
    lanes_wait_in_the_same_place: ONE, "+ ptx::thread_idx() % 32 * 4 * sizeof(float)" => "", ["not ordered"];
    warps_wait_in_the_same_place: TWO_WARPGROUPS,
        "ptx::thread_idx() / 32 * kWarpBytes" => "ptx::thread_idx() / 32 % 4 * kWarpBytes", ["not ordered"];
    rows_wait_in_the_same_place: ONE, "(row * kOwn / 2 + i) * 32" => "i * 32", ["q[", "sf["];
    first_half_forgotten: ONE, "unpark(h);" => "", ["uninitialised", "q[", "sf["];
    first_half_in_the_second: ONE, "h[row][i + 1] = std::bit_cast<float>(v.y)" => "h[row][i + 1] = h[row][kOwn / 2 + i + 1]", ["q[", "sf["];

    // Scales and codes.
    amax_of_two_lanes: ONE, "warp_reduce<4>" => "warp_reduce<2>", ["q[", "sf["];
    amax_of_two_rows: ONE, "warp_reduce<4>" => "warp_reduce<8>", ["q[", "sf["];
    scale_of_the_other_row: ONE, "+ row, scale[i])" => "+ row, scale[1 - i])", ["sf["];
    scale_of_another_block: ONE, "block * params.sf_pitch + row" => "(block ^ 1) * params.sf_pitch + row", ["sf["];
    codes_over_what_waits: ONE,
        "void quantize ... ptx::syncwarp();" => "", ["not ordered after the read"];
    codes_read_before_they_are_written: ONE,
        "write_codes(codes); ptx::syncwarp();" => "write_codes(codes);", ["not ordered", "nothing has written"];
    next_block_over_codes_unread: NO_K,
        "copy_codes(tile, slice_row + thread / 32 * kWarpRows); ptx::syncwarp();" => "copy_codes(tile, slice_row + thread / 32 * kWarpRows);",
        ["not ordered after"];
    pairs_in_the_order_of_stmatrix: ONE,
        "{low(v.x, v.y), low(v.z, v.w), high(v.x, v.y), high(v.z, v.w)}" => "v", ["q["];
    codes_without_their_swizzle: ONE, "swizzle<kBlock>(own() + row * kBlock + column)" => "own() + row * kBlock + column", ["q["];
    codes_of_rows_of_nobody: ONE,
        "if (!tile.has(to) || first" => "if (first", ["was written", "not ordered", "outside", "q["];
    scales_of_rows_of_nobody: ONE,
        "if (!tile.has(row)) continue; if (thread % 4 == 0)" => "if (thread % 4 == 0)", ["was written", "not ordered", "outside", "sf["];
    columns_of_nobody: SHORT, "|| first + column >= params.grouped.gemm.n" => "", ["was written", "not ordered", "outside", "q["];
    codes_of_the_first_block: ONE, "params.q_pitch + first + column" => "params.q_pitch + column", ["q[", "not ordered"];
    nan_unreported: NAN,
        "quant::report_nonfinite(params.grouped.error_words, h[i]);" => "", ["got one of nothing"];
    infinite_up_clamped: INFINITE_UP,
        "up > clamp && up <= kMax" => "up > clamp", "up < -clamp && up >= -kMax" => "up < -clamp", ["q[", "sf["];

    segments_read_before_the_roles_of_gate_and_up: ONE,
        "gemm::enter_segments(params.grouped, smem);" => "gemm::init_barriers<Config>(smem.ring); enter_grid(); ptx::syncthreads();",
        ["nothing has written"];
}
