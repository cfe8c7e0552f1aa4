//! Faults in the kernels of the KV cache: append, rotation.

use deepseek_kernels::mla::{RopeTable, YarnRope};
use deepseek_kernels::{Device, bf16};

use super::build::{Edit, Library};
use super::{SEEDS, caught_in};
use check::mla::kv_append::{Append, FORMATS, Tokens, slots};
use check::mla::rope;
use check::mla::rope::{Rotation, Strides};

#[derive(Clone, Copy)]
enum Operation {
    Append,
    Rotate,
}

const OPERATIONS: [Operation; 2] = [Operation::Append, Operation::Rotate];

impl Operation {
    fn kernel(self) -> &'static str {
        match self {
            Self::Append => "kv_append",
            Self::Rotate => "rope",
        }
    }

    fn run(self, device: &Device) {
        match self {
            Self::Append => appends(device),
            Self::Rotate => rotates(device),
        }
    }
}

/// Each kind of data in a launch of its own, so that a report comes from the one it belongs to.
fn appends(device: &Device) {
    for format in FORMATS {
        let check = |tokens: &Tokens, rows| {
            Append { tokens, rows, format, one_matrix: false }.check(device);
        };
        check(&Tokens::new(slots(21, 30, 1), 2), 30);
        let ties = Tokens::ties(10);
        check(&ties, 10);
        let mut stranger = ties.clone();
        stranger.slots[4] = 10;
        check(&stranger, 10);
        let mut padded = ties.clone();
        padded.slots[6] = -1;
        check(&padded, 10);
        // The only Inf is in the right half of a lane's values.
        let mut infinite = ties;
        infinite.latent[8] = bf16::INFINITY;
        check(&infinite, 10);
    }
}

fn rotates(device: &Device) {
    let table = RopeTable::yarn(YarnRope::DEEPSEEK_V3).and_then(|table| table.cos_sin(40)).expect("sensible");
    let x = rope::values(15 * 3 * rope::ROPE, 1);
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
    let x = [bf16::from_f32(1.007_812_5); 3 * rope::ROPE];
    check(&[0], &[std::f32::consts::FRAC_1_SQRT_2; rope::ROPE], &x);
}

#[test]
fn no_fault() {
    for operation in OPERATIONS {
        let library = Library::with(operation.kernel(), &[]);
        for seed in 0..SEEDS {
            operation.run(&library.device(seed));
        }
    }
}

macro_rules! faults {
    ($($name:ident: $operation:expr, $file:expr, $from:literal => $to:literal, [$($cause:literal),+];)*) => {$(
        #[test]
        fn $name() {
            let library = Library::with($operation.kernel(), &[Edit { file: $file, from: $from, to: $to }]);
            caught_in(&library, &|device| $operation.run(device), &[$($cause),+]);
        }
    )*};
}

const APPEND: &str = "mla/kv_append.cuh";
const ROPE: &str = "mla/rope.cuh";
const ROW: &str = "mla/kv_row.h";
const SCALE: &str = "quant/scale.h";

faults! {
    amax_over_half_the_lanes: Operation::Append, APPEND, "mask = kLanesPerBlock / 2;" => "mask = kLanesPerBlock / 4;", ["code", "scale"];
    amax_over_two_blocks: Operation::Append, APPEND, "mask = kLanesPerBlock / 2;" => "mask = kLanesPerBlock;", ["code", "scale"];
    amax_of_the_left_half: Operation::Append, APPEND, "quant::max_of(quant::finite_amax(left), quant::finite_amax(right))" => "quant::finite_amax(left)", ["code", "scale"];
    floor_under_amax: Operation::Append, SCALE, "const float floored = scale < kCacheScaleFloor ? kCacheScaleFloor : scale;"
        => "const float floored = amax < kAmaxFloor ? kAmaxFloor / kE4m3Max : scale;", ["code", "scale"];
    no_floor: Operation::Append, SCALE, "scale < kCacheScaleFloor ? kCacheScaleFloor : scale" => "scale", ["code", "scale"];
    product_with_the_reciprocal: Operation::Append, APPEND, "piece.x[i] / scale" => "piece.x[i] * reciprocal", ["code"];
    power_of_two_rounded_down: Operation::Append, SCALE, "+ 0x007fffffu" => "", ["code", "scale"];
    scales_always_powers_of_two: Operation::Append, SCALE, "ceil_power_of_two(floored) : floored" => "ceil_power_of_two(floored) : ceil_power_of_two(floored)",
        ["code", "scale"];
    codes_exchanged_in_a_pair: Operation::Append, APPEND, "ptx::cvt_e4m3x2(x[1], x[0])" => "ptx::cvt_e4m3x2(x[0], x[1])", ["code"];
    words_exchanged: Operation::Append, APPEND, "static_cast<uint64_t>(high) << 32 | low" => "static_cast<uint64_t>(low) << 32 | high", ["code"];
    scale_of_the_wrong_place: Operation::Append, APPEND, "block = lane / kLanesPerBlock" => "block = lane % kLanesPerBlock", ["scale", "not ordered"];
    scale_of_one_block_only: Operation::Append, APPEND, "lane % kLanesPerBlock == 0" => "lane == 0", ["scale"];
    key_over_the_scales: Operation::Append, APPEND, "gRow + kKvFp8Rope, gKey" => "gRow + kKvFp8Scales, gKey", ["key", "scale", "not ordered"];
    key_of_the_next_token: Operation::Append, APPEND, "params.k_pe + token * params.k_pe_pitch" => "params.k_pe + (token + 1) * params.k_pe_pitch",
        ["value", "key", "outside"];
    key_at_the_pitch_of_the_latent: Operation::Append, APPEND, "token * params.k_pe_pitch" => "token * params.latent_pitch", ["value", "key", "outside"];
    key_of_bf16_rows_misplaced: Operation::Append, ROW, "kKvBf16Rope = kKvLatent * sizeof(uint16_t);" => "kKvBf16Rope = kKvLatent;", ["value", "not ordered"];
    half_the_latent_copied: Operation::Append, APPEND, "copy_by_warp<kKvLatent * sizeof(uint16_t)>" => "copy_by_warp<kKvLatent>", ["value"];
    pieces_of_one_lane_skipped: Operation::Append, APPEND, "piece += kWarpLanes" => "piece += 2 * kWarpLanes", ["value"];
    row_of_the_token: Operation::Append, APPEND, "params.cache + slot * params.cache_pitch" => "params.cache + token * params.cache_pitch", ["row", "not ordered"];
    slot_not_checked: Operation::Append, APPEND, "if (slot >= params.rows) {" => "if (slot == kNoSlot) {", ["outside"];
    one_row_too_many: Operation::Append, APPEND, "slot >= params.rows" => "slot > params.rows", ["outside"];
    padding_reported: Operation::Append, APPEND, "if (slot != kNoSlot) report_fault" => "report_fault", ["reported"];
    stranger_unreported: Operation::Append, APPEND, "if (slot != kNoSlot) report_fault(params.error_words, FAULT_CACHE_SLOT);" => "", ["unreported", "reported"];
    infinities_of_the_right_half_unreported: Operation::Append, APPEND, "quant::report_nonfinite(params.error_words, right);" => "", ["unreported", "reported"];
    tokens_past_the_end: Operation::Append, APPEND, "  if (token >= params.tokens) return;" => "", ["outside"];

    turned_backwards: Operation::Rotate, ROPE, "x * sin + y * cos, x * cos - y * sin" => "y * cos - x * sin, x * cos + y * sin", ["out["];
    results_exchanged: Operation::Rotate, ROPE, "x * sin + y * cos, x * cos - y * sin" => "x * cos - y * sin, x * sin + y * cos", ["out["];
    cos_and_sin_exchanged: Operation::Rotate, ROPE, "uint32_t cos_bits, uint32_t sin_bits" => "uint32_t sin_bits, uint32_t cos_bits", ["out["];
    fused: Operation::Rotate, ROPE, "x * cos - y * sin)" => "ptx::fma_rn(x, cos, -(y * sin)))", ["out["];
    halves_as_pairs: Operation::Rotate, ROPE, "rotate(x.y, a.z, a.w), rotate(x.z, b.x, b.y)" => "rotate(x.z, a.z, a.w), rotate(x.y, b.x, b.y)", ["out["];
    angles_of_the_next_position: Operation::Rotate, ROPE, "position * params.table_pitch" => "(position + 1) * params.table_pitch", ["out[", "outside"];
    angles_of_the_first_pairs: Operation::Rotate, ROPE, "position * params.table_pitch + column" => "position * params.table_pitch", ["out["];
    position_of_the_head: Operation::Rotate, ROPE, "params.positions + token" => "params.positions + head", ["out[", "unreported"];
    heads_as_far_apart_as_results: Operation::Rotate, ROPE, "head * params.x_head_stride" => "head * params.out_head_stride", ["out[", "outside"];
    tokens_of_results_too_close: Operation::Rotate, ROPE, "token * params.out_token_stride" => "token * params.out_head_stride",
        ["not ordered"];
    position_not_checked: Operation::Rotate, ROPE, "if (position >= params.table_rows) {" => "if (false) {", ["out[", "outside"];
    position_unreported: Operation::Rotate, ROPE, "report_fault(params.error_words, FAULT_POSITION);" => "", ["unreported"];
    stranger_left_unwritten: Operation::Rotate, ROPE, "ptx::stg_v4_u32(gOut, {});" => "", ["out["];
    heads_past_the_end: Operation::Rotate, ROPE, "  if (token >= params.tokens) return;" => "", ["outside"];
}
