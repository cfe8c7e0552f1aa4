//! Faults in the quantisers and in the transposition of scales.

use check::quant::{Case, check_transpose};
use deepseek_kernels::bf16;
use deepseek_kernels::quant::ScaleFormat;
use oracles::quant::quantizer_rows;

use crate::Problem;

pub fn problems() -> Vec<Problem> {
    vec![ROWS, BLOCKS, TRANSPOSE]
}

const ROWS: Problem = Problem::Probe {
    kernels: &["quantize_1x128"],
    run: |device| {
        for format in [ScaleFormat::Fp32, ScaleFormat::PowerOfTwo] {
            let case = Case::tight(150, 384, format);
            case.check_1x128(device, &values(&case, 5));
        }
    },
};
const BLOCKS: Problem = Problem::Probe {
    kernels: &["quantize_128x128"],
    run: |device| {
        let case = Case::tight(150, 384, ScaleFormat::Fp32);
        case.check_128x128(device, &values(&case, 6));
    },
};
const TRANSPOSE: Problem =
    Problem::Probe { kernels: &["transpose_scales"], run: |device| check_transpose(device, 70, 40, 2) };

/// Every other row special, the rest with an amax of its own: the formulas of a scale differ in few codes only.
fn values(case: &Case, seed: u64) -> Vec<bf16> {
    let mut x = quantizer_rows(case.rows, case.k, seed);
    for (row, values) in x.chunks_mut(case.k).enumerate().filter(|(row, _)| row % 2 == 1) {
        values
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = bf16::from_f32((i as f32 * 0.37).sin() * (row as f32 + 0.7)));
    }
    x
}

faults! {
    amax_over_half_the_lanes: ROWS, "warp_reduce<kLanesPerRow>" => "warp_reduce<kLanesPerRow / 2>", ["wrong scales"];
    amax_over_two_rows: ROWS, "warp_reduce<kLanesPerRow>" => "warp_reduce<2 * kLanesPerRow>", ["wrong scales"];
    blocks_past_the_end: ROWS, "if (!exists) return;" => "", ["not ordered", "outside", "wrong"];
    no_floor_under_amax: ROWS, "amax < kAmaxFloor ? kAmaxFloor : amax" => "amax", ["wrong scales"];
    amax_over_infinities: ROWS, "magnitude < 0x7f800000u ?" => "magnitude <= 0x7f800000u ?", ["wrong scales"];
    power_of_two_rounded_down: ROWS, "+ 0x007fffffu" => "", ["wrong scales"];
    multiplier_of_the_wrong_formula: ROWS, "kE4m3Max / floored" => "1.0f / scale", ["wrong codes"];
    codes_exchanged_in_a_pair: ROWS,
        "x[1] * multiplier, x[0] * multiplier" => "x[0] * multiplier, x[1] * multiplier", ["wrong codes"];
    infinities_unreported: ROWS, "if (!finite) report_fault" => "if (false) report_fault", ["unreported"];
    report_by_an_ordinary_store: ROWS,
        "ptx::st_relaxed_sys_u32" => "ptx::stg_u32", ["host memory that the host uses meanwhile"];
    rows_past_the_end: BLOCKS, "if (row < params.n) x" => "x", ["outside", "wrong scales", "read-only load of q"];
    no_barrier_before_amax_is_shared: BLOCKS, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    amax_of_one_warp: BLOCKS,
        "max_of(largest, ptx::lds_f32(smem + warp * sizeof(float)))" => "ptx::lds_f32(smem)", ["wrong scales"];
    no_barrier_before_the_transposed_read: TRANSPOSE,
        "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    transposed_tile_with_a_wrong_pitch: TRANSPOSE,
        "(x * kPitch + i)" => "(x * kTile + i)",
        ["wrong scales", "nothing has written"];
}
