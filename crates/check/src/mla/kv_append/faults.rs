//! Faults in what appends tokens to the KV cache.

use crate::case::boxed;
use crate::mla::kv_append::{FORMATS, KvAppendCase, KvAppendProblem, TokenClass};
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::bf16;
use std::sync::Arc;

const APPEND: Trial = Trial::Changed(append);
const FAR: Trial = Trial::Far(|| boxed(FORMATS.map(|format| KvAppendCase::new(format, 5))));
const WIDE: Trial = Trial::Wide(|| vec![slots(i32::MIN), slots(-1)]);

/// Copies into ten rows, one of them to this one instead.
fn slots(slot: i32) -> Changed {
    let mut problem =
        KvAppendCase { rows: 10, ..KvAppendCase::new(FORMATS[0], 10) }.problem().expect("inputs");
    problem.slots[4] = slot;
    (Box::new(problem.case), Arc::new(problem))
}

/// Each scale by itself.
const SCALES: Trial = Trial::Changed(|| [0.0, f32::INFINITY, f32::NAN].map(under).into());

fn under(scale: f32) -> Changed {
    let mut problem = KvAppendCase::new(FORMATS[3], 10).problem().expect("inputs");
    problem.scale = scale;
    (Box::new(problem.case), Arc::new(problem))
}

const PAGES: Trial = Trial::Changed(|| {
    let case = KvAppendCase { rows: 24, page_size: Some(6), ..KvAppendCase::new(FORMATS[0], 10) };
    vec![(Box::new(case), Arc::new(case.problem().expect("inputs")))]
});

/// Each kind of data in a launch of its own, so that a report comes from the one it belongs to.
fn append() -> Vec<Changed> {
    let drawn = |class, format, tokens, rows| {
        let case = KvAppendCase { class, rows, one_matrix: false, ..KvAppendCase::new(format, tokens) };
        case.problem().expect("inputs")
    };
    let of = |format| {
        let ties = drawn(TokenClass::Ties, format, 10, 10);
        let mut stranger = ties.clone();
        stranger.slots[4] = 10;
        let mut padded = ties.clone();
        padded.slots[6] = -1;
        // The only Inf is in the right half of a lane's values.
        let mut infinite = ties.clone();
        infinite.latent[8] = bf16::INFINITY;
        let alone = KvAppendCase { rope: 0, rows: 10, ..KvAppendCase::new(format, 10) };
        let alone = alone.problem().expect("inputs");
        [drawn(TokenClass::EveryKind, format, 21, 30), ties, stranger, padded, infinite, alone]
    };
    let changed = |problem: KvAppendProblem| -> Changed { (Box::new(problem.case), Arc::new(problem)) };
    FORMATS.into_iter().flat_map(of).map(changed).collect()
}

faults! {
    rows_of_the_cache_counted_in_32_bits: FAR,
        "slot % params.page_size * params.cache_pitch"
            => "static_cast<uint32_t>(slot % params.page_size * params.cache_pitch)", ["bytes: row "];
    amax_over_half_the_lanes: APPEND,
        "warp_reduce<kLanesPerBlock>" => "warp_reduce<kLanesPerBlock / 2>", ["code", "scale"];
    amax_over_two_blocks: APPEND, "warp_reduce<kLanesPerBlock>" => "warp_reduce<2 * kLanesPerBlock>", ["code", "scale"];
    amax_of_the_left_half: APPEND,
        "quant::max_of(quant::finite_amax(x.left.x), quant::finite_amax(x.right.x))" => "quant::finite_amax(x.left.x)",
        ["code", "scale"];
    floor_under_amax: APPEND,
        "scale < kCacheScaleFloor ? kCacheScaleFloor" => "amax < kCacheScaleFloor ? kCacheScaleFloor / kE4m3Max", ["code", "scale"];
    no_floor: APPEND, "scale < kCacheScaleFloor ? kCacheScaleFloor : scale" => "scale", ["code", "scale"];
    product_with_the_reciprocal: APPEND, "piece.x[i] / scale" => "piece.x[i] * reciprocal", ["code"];
    scale_by_the_inverse_of_448: APPEND,
        "const float scale = amax / kE4m3Max;" => "const float scale = amax * (1.0f / kE4m3Max);", ["scale"];
    floor_under_the_power_of_two: APPEND,
        "ceil_power_of_two(floored) : floored"
            => "scale < kCacheScaleFloor ? kCacheScaleFloor : ceil_power_of_two(scale) : floored",
        ["scale"];
    power_of_two_rounded_down: APPEND, "+ 0x007fffffu" => "", ["code", "scale"];
    scales_always_powers_of_two: APPEND, ": floored" => ": ceil_power_of_two(floored)", ["code", "scale"];
    codes_exchanged_in_a_pair: APPEND, "cvt_e4m3x2(x[1], x[0])" => "cvt_e4m3x2(x[0], x[1])", ["code"];
    words_exchanged: APPEND, "(quant::four_codes(x + 4)) << 32 | quant::four_codes(x)" => "(quant::four_codes(x)) << 32 | quant::four_codes(x + 4)", ["code"];
    scale_of_the_wrong_place: APPEND,
        "block = lane / kLanesPerBlock" => "block = lane % kLanesPerBlock", ["scale", "not ordered"];
    scale_of_one_block_only: APPEND, "lane % kLanesPerBlock == 0" => "lane == 0", ["scale"];
    key_over_the_scales: APPEND,
        "gRow + kKvFp8Rope, gKey" => "gRow + kKvFp8Scales, gKey", ["key", "scale", "not ordered"];
    key_of_the_next_token: APPEND,
        "params.k_pe + token * params.k_pe_pitch" => "params.k_pe + (token + 1) * params.k_pe_pitch",
        ["value", "key", "outside"];
    key_at_the_pitch_of_the_latent: APPEND,
        "token * params.k_pe_pitch" => "token * params.latent_pitch", ["value", "key", "outside"];
    key_of_bf16_rows_misplaced: APPEND,
        "kKvBf16Rope = kKvLatent * sizeof(uint16_t)" => "kKvBf16Rope = kKvLatent", ["value", "not ordered"];
    key_that_is_not_there: APPEND,
        "if (params.rope != 0) copy_by_warp<kKvRope * sizeof(uint16_t)>(gRow + kKvBf16Rope"
            => "copy_by_warp<kKvRope * sizeof(uint16_t)>(gRow + kKvBf16Rope",
        ["outside"];
    key_of_fp8_rows_that_is_not_there: APPEND,
        "if (params.rope != 0) copy_by_warp<kKvRope * sizeof(uint16_t)>(gRow + kKvFp8Rope"
            => "copy_by_warp<kKvRope * sizeof(uint16_t)>(gRow + kKvFp8Rope",
        ["outside"];
    key_of_a_per_tensor_row_left_out: APPEND, "i < kKvLatent + params.rope" => "i < kKvLatent", ["code"];
    key_of_a_per_tensor_row_that_is_not_there: APPEND,
        "i < kKvLatent + params.rope" => "i < kKvLatent + kKvRope", ["outside"];
    key_of_a_per_tensor_row_from_its_middle: APPEND, "gKey + (i - kKvLatent)" => "gKey + (i - kKvLatent) / 2", ["code"];
    latent_for_the_key_of_a_per_tensor_row: APPEND,
        "i < kKvLatent ? gLatent + i : gKey + (i - kKvLatent)" => "gLatent + i % kKvLatent", ["code"];
    bad_scale_unreported: SCALES,
        "quant::report_nonfinite(params.error_words, scale);" => "", ["got one of nothing"];
    scale_of_zero_unreported: SCALES,
        "if (scale[0] == 0.0f) report_fault(params.error_words, FAULT_NONFINITE_INPUT);" => "", ["got one of nothing"];
    half_the_latent_copied: APPEND,
        "copy_by_warp<kKvLatent * sizeof(uint16_t)>" => "copy_by_warp<kKvLatent>", ["value"];
    pieces_of_one_lane_skipped: APPEND, "piece += kWarpLanes" => "piece += 2 * kWarpLanes", ["value"];
    row_of_the_token: APPEND,
        "slot % params.page_size * params.cache_pitch" => "token % params.page_size * params.cache_pitch",
        ["row", "not ordered"];
    row_of_another_page: PAGES, "slot / params.page_size" => "token / params.page_size", ["row", "not ordered"];
    pages_without_their_stride: PAGES,
        "slot / params.page_size * params.page_stride" => "slot / params.page_size * params.page_size * params.cache_pitch",
        ["row", "not ordered", "outside", "around"];
    narrow_slots_read_as_wide: APPEND, "indices.words_per_index - 1" => "1", ["outside"];
    slot_not_checked: APPEND, "slot >= params.rows" => "slot == kNoSlot", ["outside"];
    one_row_too_many: APPEND, "slot >= params.rows" => "slot > params.rows", ["outside"];
    padding_reported: APPEND, "if (slot != kNoSlot)" => "", ["got one of slots"];
    stranger_unreported: APPEND,
        "if (slot != kNoSlot)" => "",
        "report_fault(params.error_words, FAULT_CACHE_SLOT);" => "",
        ["got one of nothing"];
    infinities_of_the_right_half_unreported: APPEND,
        "quant::report_nonfinite(params.error_words, x.right.x);" => "", ["got one of nothing"];
    tokens_past_the_end: APPEND, "if (token >= params.tokens) return;" => "", ["outside"];

    // Slots of 64 bits.
    high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["got one of nothing", "row", "not ordered"];
    sign_of_64_bits_ignored: WIDE, "high == low >> 31" => "high == 0", ["got one of slots"];
    what_does_not_fit_dropped: WIDE, "low : INT32_MIN" => "low : -1", ["got one of nothing"];
    wide_slots_read_as_narrow: WIDE,
        "column * indices.words_per_index" => "column", ["row", "not ordered", "got one of"];
}
