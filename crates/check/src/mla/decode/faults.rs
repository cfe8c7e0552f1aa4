//! Faults in MLA decode: schedule, producers, softmax, products, stores, combine.

use crate::case::boxed;
use crate::mla::decode::{MlaDecodeCase, MlaDecodeProblem, STALE_PAGE};
use crate::mla::{CacheRows, KEY, LATENT};
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::bf16;
use deepseek_kernels::mla::{KvFormat, LseOrder};
use oracles::mla::AttentionClass;
use std::sync::Arc;

/// One tile of rows, not full.
const BF16: Trial = Trial::Changed(|| decode(KvFormat::Bf16, 21));
/// Lengths and pages of 64 bits.
const WIDE: Trial = Trial::Wide(|| decode(KvFormat::Bf16, 21));
/// Two tiles of rows, whose CTAs share the keys.
const CLUSTER: Trial = Trial::Changed(|| decode(KvFormat::Bf16, 64));
const FP8: Trial = Trial::Changed(|| decode(KvFormat::Fp8, 21));
/// Two tiles of rows, whose CTAs dequantise half of the keys each.
const FP8_CLUSTER: Trial = Trial::Changed(|| decode(KvFormat::Fp8, 64));

/// Pages in boxes of four keys, and of one: more boxes than a warp has lanes. Something lies between the pages.
const PAGES: Trial = Trial::Changed(|| pages(KvFormat::Bf16, 21));
const CLUSTER_PAGES: Trial = Trial::Changed(|| pages(KvFormat::Bf16, 64));
const FP8_PAGES: Trial = Trial::Changed(|| pages(KvFormat::Fp8, 21));

const ORDER: Trial = Trial::Changed(heads_tokens);
const FAR: Trial = Trial::Far(|| {
    let case = |format| MlaDecodeCase { heads: 2, ..MlaDecodeCase::new(format, vec![150, 70, 90]) };
    boxed([KvFormat::Bf16, KvFormat::Fp8].map(case))
});

/// A row whose every score is -Inf: the first column of the position is 1 in every key.
const LOST: Trial = Trial::Changed(|| {
    let mut problem = MlaDecodeCase::new(KvFormat::Bf16, vec![70, 0]).problem().expect("inputs");
    problem.finite = false;
    if let CacheRows::Bf16(rows) = &mut problem.cache {
        rows.chunks_exact_mut(KEY).for_each(|row| row[LATENT] = bf16::ONE);
    }
    problem.q[5 * KEY + LATENT] = bf16::NEG_INFINITY;
    vec![changed(problem)]
});

/// More sequences than a CTA of the schedule has threads, of equal lengths on both sides of the border.
const MANY: Trial = Trial::Changed(|| {
    let lengths = (0..130_usize).map(|i| if i < 125 { 1 + i % 3 } else { 65 }).collect();
    let case =
        MlaDecodeCase { heads: 1, split_keys: Some(64), ..MlaDecodeCase::new(KvFormat::Bf16, lengths) };
    vec![changed(case.problem().expect("inputs"))]
});

pub(super) fn changed(problem: MlaDecodeProblem) -> Changed {
    (Box::new(problem.case.clone()), Arc::new(problem))
}

/// Empty sequences, several splits, borders, rows that see no key of a split, and pages that do not exist.
pub(super) fn decode(format: KvFormat, heads: usize) -> Vec<Changed> {
    let drawn = |class, lengths: &[usize], split_keys| {
        let case = MlaDecodeCase::new(format, lengths.to_vec());
        let split_keys = Some(split_keys);
        let case = MlaDecodeCase { class, heads, q_tokens: 2, causal: true, split_keys, ..case };
        case.problem().expect("inputs")
    };
    let mut strange = drawn(AttentionClass::Normal, &[1, 500, 100], 128);
    strange.case.class = AttentionClass::Positive;
    let columns = strange.table.len() / 3;
    strange.table[columns] = STALE_PAGE;
    strange.lengths[1] = -5;
    strange.lengths[2] = i32::MAX;
    strange.table[2 * columns..].fill(STALE_PAGE);
    let mut too_many = drawn(AttentionClass::Normal, &[0, 300, 129, 0, 65, 1], 128);
    too_many.spec.total_keys = Some(430);
    let problems = [
        drawn(AttentionClass::Normal, &[0, 300, 129, 0, 65], 128),
        too_many,
        drawn(AttentionClass::OneKey, &[200, 333], 128),
        // No sequence has more than one split: nothing is combined. Stages, places of Q and of zeros are used again.
        drawn(AttentionClass::Normal, &[0, 300, 10, 130, 100, 0, 90, 20, 70, 65, 0, 64, 30, 0, 0], 1024),
        strange,
    ];
    problems.map(changed).into()
}

pub(super) fn pages(format: KvFormat, heads: usize) -> Vec<Changed> {
    let drawn = |page_size| {
        let case = MlaDecodeCase::new(format, vec![67, 0, 330]);
        let case = MlaDecodeCase { heads, q_tokens: 2, split_keys: Some(1024), ..case };
        let case = MlaDecodeCase { page_size: Some(page_size), pages_apart: true, ..case };
        changed(case.problem().expect("inputs"))
    };
    vec![drawn(12), drawn(1)]
}

/// With lse in the other order, split and not.
fn heads_tokens() -> Vec<Changed> {
    let of = |lse_order| {
        let case = MlaDecodeCase::new(KvFormat::Bf16, vec![100, 300]);
        let case = MlaDecodeCase { lse_order, heads: 3, q_tokens: 2, ..case };
        changed(case.problem().expect("inputs"))
    };
    [LseOrder::HeadsTokens, LseOrder::SequencesHeadsTokens { q_tokens: 2 }].map(of).into()
}

faults! {
    // Rows far apart.
    rows_of_the_table_counted_in_32_bits: FAR,
        "row * indices.pitch" => "static_cast<uint32_t>(row * indices.pitch)", ["elements are wrong", "got one of"];
    rows_of_the_cache_counted_in_32_bits: FAR,
        "key * params.kv_pitch" => "static_cast<uint32_t>(key * params.kv_pitch)",
        ["elements are wrong"];

    row_of_negative_infinity_unreported: LOST,
        "if (l[r] == 0.0f && rows.visible[r] > work.first_key)" => "if (false)", ["got one of nothing"];
    rows_without_keys_reported: BF16,
        "l[r] == 0.0f && rows.visible[r] > work.first_key" => "l[r] == 0.0f", ["expected a report of nothing"];

    // Which keys a row sees.
    no_tail_mask: BF16,
        "if (first_key + Config::kBlockKeys > rows.visible[0])" => "",
        "mask_scores(rS, rows, first_key);" => "",
        ["elements are wrong"];
    mask_where_the_lower_row_needs_one_alone: BF16,
        "first_key + Config::kBlockKeys > rows.visible[0]" => "first_key + Config::kBlockKeys > rows.visible[1]",
        ["elements are wrong"];
    causal_off_by_one: BF16, "q_tokens - 1 - token : 0" => "q_tokens - token : 0", ["elements are wrong"];
    causal_aligned_to_the_top: BF16,
        "causal ? q_tokens - 1 - token : 0" => "causal ? token : 0", ["elements are wrong"];
    mask_of_the_other_row: BF16, "rows.visible[i % 4 / 2]" => "rows.visible[1 - i % 4 / 2]", ["elements are wrong"];
    mask_one_key_late: BF16, "i % 2 >= rows.visible" => "i % 2 > rows.visible", ["elements are wrong"];
    row_of_another_token: BF16, "row < work.rows ? row / params.heads" => "row < work.rows ? (row + 1) / params.heads", ["elements are wrong"];
    left_values_past_the_end_stay: BF16,
        "clear_values(smem, stage, 0, work.keys(j));" => "", ["elements are wrong"];
    right_values_past_the_end_stay: BF16,
        "clear_values(smem, kv.stage, 1, work.keys(j));" => "", ["elements are wrong"];
    cleared_values_without_a_fence: BF16,
        "void clear_values ... warpgroup_fence_async(half);" => "warpgroup_sync(half);", ["fence.proxy.async"];

    // The grids ahead.
    only_those_that_multiply_wait_for_the_grids_ahead: BF16,
        "void mla_decode ... enter_grid();" => "if (ptx::thread_idx() < 2 * 128) enter_grid();",
        ["load before griddepcontrol.wait: a grid ahead", "exits without griddepcontrol.wait"];
    combined_before_the_splits_are_there: BF16,
        "void mla_combine_kernel ... enter_grid();" => "",
        "if (count == 1) return;" => "enter_grid(); if (count == 1) return;",
        ["global load before griddepcontrol.wait: a grid ahead"];

    // Splits and their order.
    split_starts_a_block_late: BF16,
        "w.split * params.split_blocks * MLA_BLOCK_KEYS"
            => "(w.split * params.split_blocks + w.split % 2) * MLA_BLOCK_KEYS",
        ["elements are wrong", "in flight", "waits"];
    split_ends_a_block_early: BF16,
        "? blocks_left : params.split_blocks" => "? blocks_left : params.split_blocks - 1", ["elements are wrong"];
    empty_sequence_without_a_split: BF16,
        "rest != 0 || length == 0" => "rest != 0", ["elements are wrong", "out of bounds", "outside", "race"];
    length_not_cut: BF16,
        "positive < capacity ? positive : capacity" => "positive", ["out of bounds", "outside", "got one of pages"];
    negative_length_taken_for_a_large_one: BF16,
        "length < 0 ? 0 : static_cast<uint32_t>(length)" => "static_cast<uint32_t>(length)", ["elements are wrong"];
    keys_beyond_those_of_all_are_kept: BF16,
        "keys <= params.total_keys ? length : 0" => "length", ["elements are wrong"];
    other_sequences_keys_are_not_counted: BF16, "keys += length" => "keys = length", ["elements are wrong"];
    two_rests_in_one_place: BF16,
        "(count.rest == own.rest && other < mine)" => "false",
        ["elements are wrong", "outside", "out of bounds", "race"];
    whole_splits_counted_twice: BF16,
        "totals.whole_before += count.whole" => "totals.whole_before += count.total()",
        ["elements are wrong", "outside", "out of bounds", "race"];
    sequences_of_the_first_cta_alone: MANY,
        "mine = ptx::cta_idx() * Config::kThreads + ptx::thread_idx()" => "mine = ptx::thread_idx()",
        ["elements are wrong", "not written", "outside", "out of bounds", "race"];
    equal_rests_ordered_within_a_cta: MANY,
        "count.rest == own.rest && other < mine" => "count.rest == own.rest && other % 128 < mine % 128",
        ["elements are wrong", "not written", "outside", "out of bounds", "race"];
    offsets_of_the_next_sequence: BF16,
        "if (other < mine)" => "if (other <= mine)", ["elements are wrong", "outside", "out of bounds", "race"];
    bad_length_goes_unreported: BF16,
        "report_fault(params.error_words, FAULT_SEQUENCE_LENGTH)" => "(void)0", ["got one of nothing"];
    split_skipped_in_the_second_round: CLUSTER,
        "step = steps - 1 - 2 * index" => "step = steps - 2 * index", ["elements are wrong", "written"];
    part_of_another_split: BF16, "first + work.split" => "first", ["elements are wrong", "race"];
    only_split_combined_too: BF16, "if (count == 1) return;" => "", ["elements are wrong"];
    merge_without_max: BF16, "m[i] - greatest" => "m[i]", ["elements are wrong"];
    merge_with_the_max_of_each_lane: BF16,
        "op(value, ptx::shfl_xor(value, mask))" => "ptx::shfl_xor(value, 0)", ["elements are wrong"];
    sums_merged_without_weights: BF16, "ptx::fma_rn(weight, l[i], sum.l)" => "sum.l + l[i]", ["elements are wrong"];
    last_part_left_out: BF16, "first + i < parts.count" => "first + i + 1 < parts.count", ["elements are wrong"];
    parts_past_the_last_added: BF16,
        "exists ? ptx::ldg_f32(parts.state + 2 * row + 1) : 0.0f" => "ptx::ldg_f32(parts.state + 2 * row + 1)",
        ["elements are wrong"];
    some_rows_not_combined: BF16,
        "row += ptx::grid_dim() * Config::kRows" => "row += ptx::grid_dim() * Config::kRows * 2", ["elements are wrong"];

    // Lengths and pages of 64 bits.
    high_word_of_lengths_ignored: WIDE,
        "high == low >> 31 ? low : INT32_MIN" => "low", ["elements are wrong", "got one of"];
    length_that_does_not_fit_taken_for_a_large_one: WIDE, "low : INT32_MIN" => "low : INT32_MAX", ["elements are wrong"];
    wide_lengths_read_as_narrow: WIDE,
        "column * indices.words_per_index" => "column", ["elements are wrong", "got one of", "outside"];
    pitch_of_wide_pages_doubled: WIDE,
        "row * indices.pitch" => "row * indices.pitch * indices.words_per_index", ["elements are wrong", "outside", "got one of"];

    // Softmax.
    lse_in_base_two: BF16, "ptx::lg2_approx(l)) * kLn2" => "ptx::lg2_approx(l))", ["lse: "];
    lse_of_rows_instead_of_tokens: BF16,
        "row / params.heads, row % params.heads" => "row / params.rows, row % params.rows",
        ["lse: ", "outside", "race", "written"];
    combined_lse_of_rows_instead_of_tokens: BF16,
        "of_sequence / params.heads, of_sequence % params.heads" => "of_sequence / params.rows, of_sequence % params.rows",
        ["lse: ", "outside", "race", "written"];
    lse_without_its_pitch: BF16,
        "token / strides.group_tokens * strides.group" => "token / strides.group_tokens * 21",
        ["lse: ", "around lse", "race", "not ordered"];
    heads_of_lse_side_by_side: ORDER, "head * strides.head" => "head", ["lse: ", "not ordered", "outside", "race"];
    sequences_of_lse_side_by_side: ORDER,
        "token / strides.group_tokens * strides.group" => "token / strides.group_tokens * strides.group_tokens",
        ["lse: ", "not ordered", "race"];
    tokens_of_lse_in_one_place: ORDER,
        "+ token % strides.group_tokens * strides.token" => "", ["lse: ", "not ordered", "race"];
    nan_for_rows_without_keys: BF16, "m == kMlaNoKey ? 0.0f : m" => "m", ["elements are wrong"];
    max_of_half_a_row: BF16, "ptx::max_f32(greatest, ptx::shfl_xor(greatest, 2))" => "greatest", ["elements are wrong"];
    sum_of_half_a_row: BF16, "pair + ptx::shfl_xor(pair, 2)" => "pair", ["elements are wrong"];
    sum_not_rescaled: BF16, "rows.l[r] *= rescale[r];" => "", ["elements are wrong"];
    max_forgotten_between_blocks: BF16,
        "ptx::max_f32(rows.m[r], block_max(rS, r) * scale_log2)" => "block_max(rS, r) * scale_log2",
        ["elements are wrong"];
    scores_not_scaled: BF16,
        "ptx::fma_rn(s, scale_log2, -base)" => "ptx::fma_rn(s, 1.0f, -base)", ["elements are wrong"];
    left_sums_not_rescaled: BF16, "scale_rows(rO, rescale);" => "", ["elements are wrong"];
    right_sums_not_rescaled: BF16, "scale_rows(rO, factor);" => "", ["elements are wrong"];

    // Products.
    position_never_scored: BF16,
        "i == 0 ? Config::kRopeTile : i - 1" => "i == 0 ? 0 : i - 1",
        ["elements are wrong", "arrival on kv_full", "counted on kv_full", "race"];
    scores_never_cleared: BF16, "i + byte != 0" => "true", ["elements are wrong", "uninitialised", "wgmma"];
    values_of_the_other_half: BF16,
        "smem.kv(stage, half * Config::kHalfTiles)" => "smem.kv(stage, 0)", ["elements are wrong", "race", "in flight"];
    values_of_the_wrong_keys: BF16,
        "descriptor_advance(desc_v, step * 16 * 128)" => "descriptor_advance(desc_v, step * 16 * 64)",
        ["elements are wrong", "swizzle", "1024"];
    values_read_along_instead_of_across: BF16,
        "wgmma_k16_bf16_mn(rO" => "wgmma_k16_bf16(rO",
        ["elements are wrong", "in flight", "race", "out of bounds", "nothing has written"];
    weights_of_the_wrong_keys: BF16,
        "descriptor_advance(desc_p, step * 32)" => "descriptor_advance(desc_p, step * 16)", ["elements are wrong"];
    left_weights_of_the_wrong_keys: BF16, "rP[step], desc_v" => "rP[step ^ 1], desc_v", ["elements are wrong"];
    left_values_read_along_instead_of_across: BF16,
        "ptx::wgmma_rs_k16_bf16_mn(rO, rP[step], desc_v, true)"
            => "ptx::wgmma_rs_k16_bf16_mn(rO, rP[step], descriptor_advance(desc_v, 32), true)",
        ["elements are wrong"];
    weights_in_pairs_of_rows: BF16,
        "rPairs[r / 8][r % 8 / 2]" => "rPairs[r / 8][r % 8 / 4 + r % 4 / 2 * 2]", ["elements are wrong"];
    softmax_before_the_scores_are_there: BF16,
        "uint32_t j = 1 ... ptx::wgmma_wait_group<0>(rS);" => "ptx::wgmma_wait_group<1>(rS);", ["wgmma", "not ordered"];
    sums_stored_in_flight: BF16,
        "void attend_left ... ptx::wgmma_wait_group<0>(rO, rP);" => "", ["wgmma", "not ordered", "in flight", "owns one of its accumulators"];

    // What the roles tell each other.
    weights_read_without_a_barrier: BF16,
        "smem.p_pipeline().await_full(p);" => "", ["not ordered", "nothing has written"];
    weights_handed_on_that_the_tensor_core_owns: BF16,
        "publish(smem, p, rShared, rescale); score" => "publish(smem, p, rP, rescale); score",
        ["elements are wrong"];
    weights_written_that_the_tensor_core_owns: BF16,
        "ptx::wgmma_wait_group<1>(rO, rP);" => "ptx::wgmma_wait_group<1>(rO);", ["register 0 of A was written"];
    weights_overwritten_while_they_are_read: BF16,
        "void publish ... smem.p_pipeline().await_empty(p);" => "", ["not ordered", "p_full"];
    weights_without_a_fence: BF16, "void publish ... ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    weights_never_given_back: BF16, "void right ... smem.p_pipeline().release(p);" => "", ["waits for p_empty"];
    left_values_released_too_early: BF16,
        "uint32_t j = 1 ... weigh_left();" => "release_keys(smem, kv.stage, kLeftValues); weigh_left();",
        ["not ordered", "in flight", "kv_empty"];
    left_values_released_in_flight: BF16,
        "ptx::wgmma_wait_group<1>(rO, rP);" => "", ["not ordered", "in flight", "kv_empty", "of A was written"];
    right_values_released_too_early: BF16,
        "weigh(smem, kv.stage, 1," => "release_keys(smem, kv.stage, kRightValues); weigh(smem, kv.stage, 1,",
        ["not ordered", "in flight", "kv_empty"];
    position_never_released: BF16, "release_keys(smem, stage, kRope);" => "", ["waits for kv_empty"];
    keys_read_before_they_land: BF16,
        "ptx::mbarrier_wait(smem.kv_full(kv.stage, tile), kv.phase);" => "",
        ["in flight", "nothing has written", "not ordered"];
    keys_loaded_over_left_values: BF16,
        "void load_block ... await_free(smem, kv, kLeftValues);" => "", ["kv_full", "in flight", "not ordered"];
    keys_loaded_over_right_values: BF16,
        "void load_block ... await_free(smem, kv, kRightValues);" => "", ["kv_full", "in flight", "not ordered"];
    scores_never_said_to_be_done: BF16,
        "uint32_t j = 1 ... warp_arrive(smem.scored());" => "", ["waits for scored"];
    last_scores_never_said_to_be_done: BF16,
        "publish(smem, p, rShared, rescale); warp_arrive(smem.scored());" => "publish(smem, p, rShared, rescale);",
        ["waits for scored"];
    queries_read_before_they_land: BF16,
        "smem.q_pipeline().await_full(q);" => "", ["in flight", "nothing has written", "not ordered"];
    queries_loaded_over_those_in_use: BF16,
        "smem.q_pipeline().await_empty(q);" => "", ["q_full", "in flight", "not ordered"];
    queries_given_back_before_the_last_scores: BF16,
        "if (j + 1 == work.blocks) smem.q_pipeline().release({});" => "",
        "score(rS, smem, kv);" => "smem.q_pipeline().release({}); score(rS, smem, kv);",
        ["q_full", "in flight", "not ordered"];
    queries_never_given_back: BF16, "smem.q_pipeline().release({});" => "", ["waits for q_empty"];
    output_given_back_before_it_is_there: BF16,
        "store_out(params, smem, work, half, kv, rO); release_keys(smem, kv.stage, values);"
            => "release_keys(smem, kv.stage, values); store_out(params, smem, work, half, kv, rO);",
        ["not ordered", "in flight", "TMA store", "fence.proxy.async"];
    last_values_never_given_back: BF16,
        "store_part<Config>(params" => "return; store_part<Config>(params",
        "} else { release_keys(smem, kv.stage, values);" => "} else { store_part<Config>(params, work, part, half, rO);",
        ["waits for kv_empty"];
    half_of_the_zeros: BF16, "MLA_LATENT * 2 / 16;" => "MLA_LATENT / 16;", ["elements are wrong", "written"];
    output_without_a_fence: BF16, "void store_out ... ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    output_copied_before_all_lanes_have_written: BF16,
        "void copy_fragment_rows ... ptx::syncwarp();" => "", ["not ordered"];
    output_of_another_piece: BF16,
        "gRow + byte / 2" => "gRow + (byte ^ 16) / 2", ["elements are wrong"];
    cluster_keys_of_one_half_twice: CLUSTER,
        "ptx::cluster_rank() * kOwnKeys<Config>" => "0", ["in flight", "kv_full"];
    cluster_released_to_one_producer_only: CLUSTER, "if (lane < Cluster)" => "if (lane < 1)", ["kv_empty"];
    cluster_leaves_before_its_peer: CLUSTER,
        "leave_cluster<Config>();" => "", ["exited", "exits", "gone", "may exit before"];

    // Pages, rows, codes.
    page_of_the_next_entry: BF16,
        "work.sequence, key / params.page_size" => "work.sequence, key / params.page_size + 1", ["elements are wrong", "expected a report of nothing"];
    table_row_of_another_pitch: BF16,
        "row * indices.pitch" => "row * (indices.pitch - 1)",
        ["elements are wrong", "expected a report of nothing", "outside", "out of bounds", "race"];
    narrow_pages_read_as_wide: BF16,
        "indices.words_per_index - 1" => "1", ["outside"];
    bad_page_goes_unreported: BF16, "report_fault(params.error_words, FAULT_PAGE_ID)" => "(void)0", ["got one of sequences"];
    rows_past_the_last_are_stored: BF16,
        "void store_part ... if (row >= work.rows) continue;" => "", ["elements are wrong", "outside", "out of bounds", "race"];
    output_not_divided: BF16, "l == 0.0f ? 0.0f : 1.0f / l" => "l == 0.0f ? 0.0f : 1.0f", ["elements are wrong"];
    part_in_the_wrong_columns: BF16,
        "kHalfColumns + fragment_column(thread)" => "kHalfColumns + fragment_column(thread + 1)",
        ["elements are wrong"];
    scale_of_another_group: FP8,
        "Config::kTileColumns / kKvScaleBlock" => "Config::kTileColumns / 256", ["elements are wrong"];
    codes_exchanged_in_a_pair: FP8,
        "ptx::cvt_bf16x2(x.hi * scale, x.lo * scale)" => "ptx::cvt_bf16x2(x.lo * scale, x.hi * scale)",
        ["elements are wrong"];
    codes_of_the_next_key: FP8,
        "fp8_key<Config>(i), words.of[i]" => "fp8_key<Config>(i) + 1, words.of[i]", ["elements are wrong"];
    codes_without_a_fence: FP8, "void store_codes ... ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    codes_past_the_end_stay: FP8,
        "MlaPlace place_of ... if (key >= work.length) return {params.pages, 0};" => "", ["elements are wrong"];
    codes_over_left_values: FP8, "void load_fp8 ... await_free(smem, kv, kLeftValues);" => "", ["not ordered", "nothing has written"];
    codes_over_right_values: FP8, "void load_fp8 ... await_free(smem, kv, kRightValues);" => "", ["not ordered"];
    position_of_a_wrong_byte: FP8, "kKvFp8Rope, key" => "kKvFp8Rope - 16, key", ["elements are wrong"];
    bad_page_is_read: FP8, "wanted && page < params.pages" => "wanted", ["outside", "out of bounds", "race"];
    page_of_the_block_before: FP8,
        "fp8_words<Config>(params, work, j + 2)" => "fp8_words<Config>(params, work, j + 1)",
        ["elements are wrong", "expected a report of nothing"];
    scales_of_the_next_block: FP8,
        "Config::kHalfTiles, right, rows" => "Config::kHalfTiles, right, next", ["elements are wrong"];
    page_past_the_end_looked_up: PAGES,
        "params.page_table.words == nullptr || key >= work.length" => "params.page_table.words == nullptr", ["outside"];
    key_of_two_pages: PAGES, "key % params.page_size" => "key % (2 * params.page_size)", ["elements are wrong"];
    boxes_that_end_behind_the_page: PAGES,
        "ptx::thread_idx() % 32) * params.box_keys" => "ptx::thread_idx() % 32) * 4", ["in flight", "kv_full"];
    boxes_of_a_warp_only: PAGES, "(i * 32 + ptx::thread_idx() % 32)" => "(ptx::thread_idx() % 32)", ["in flight", "kv_full"];
    boxes_of_the_peer: CLUSTER_PAGES, "ptx::cluster_rank() * kOwnKeys<Config>" => "0", ["in flight", "kv_full"];
    every_lane_announces_the_tile: PAGES,
        "if (ptx::thread_idx() % 32 == 0) ptx::mbarrier_arrive_expect_tx" => "ptx::mbarrier_arrive_expect_tx", ["kv_full"];
    page_of_the_first_key_for_all: FP8_PAGES, "key, places.at[i]" => "key, places.at[0]", ["elements are wrong"];
    position_of_the_first_box_only: FP8_PAGES, "(key & (params.box_keys - 1)) == 0" => "key == 0", ["kv_full"];
    position_over_the_one_in_use: FP8_PAGES, "void load_rope ... await_free(smem, kv, kRope);" => "",
        ["not ordered", "in flight", "kv_full"];
    pages_without_their_stride: FP8_PAGES,
        "page * params.page_stride" => "page * (params.page_size * params.kv_pitch)", ["elements are wrong", "outside"];

    // Dequantised keys handed to the peer.
    both_ctas_dequantise_the_same_half: FP8_CLUSTER,
        "ptx::cluster_rank() * kOwnKeys<Config>" => "0", ["bulk copy", "in flight", "not ordered"];
    codes_copied_over_the_peers_own: FP8_CLUSTER,
        "bulk_copy_to_cta(sKeys" => "bulk_copy_to_cta(smem.kv(stage, tile) + (fp8_first_key<Config>() ^ 32) * 128",
        ["bulk copy", "in flight", "not ordered"];
    codes_copied_to_the_cta_itself: FP8_CLUSTER, "ptx::cluster_rank() ^ 1" => "ptx::cluster_rank()", ["bulk copy"];
    peers_codes_not_announced: FP8_CLUSTER,
        "ptx::mbarrier_arrive_expect_tx(full, kBytes)" => "ptx::mbarrier_arrive(full)", ["expect_tx", "in flight"];
    codes_copied_without_a_fence: FP8_CLUSTER,
        "void store_codes ... ptx::fence_proxy_async_shared();" => "", ["bulk copy"];
    codes_copied_before_all_lanes_have_stored: FP8_CLUSTER,
        "void publish_keys ... ptx::syncwarp();" => "", ["bulk copy"];
    half_of_a_warps_codes_copied: FP8_CLUSTER, "sKeys, kBytes" => "sKeys, kBytes / 2", ["kv_full"];
    codes_copied_over_the_peers_left_values: FP8_CLUSTER,
        "void load_fp8 ... await_free(smem, kv, kLeftValues);" => "", ["not ordered", "in flight"];
    codes_copied_over_the_peers_right_values: FP8_CLUSTER,
        "void load_fp8 ... await_free(smem, kv, kRightValues);" => "", ["not ordered", "in flight"];
    output_over_codes_on_their_way_to_the_peer: FP8_CLUSTER,
        "void store_out ... await_release<Config::kCluster>(smem.kv_empty(kv.stage, kRope), kv.phase);" => "",
        ["bulk copy", "not ordered"];
    codes_wait_at_cta_scope_only: FP8_CLUSTER,
        "ptx::mbarrier_wait_cluster(bar, parity)" => "ptx::mbarrier_wait(bar, parity)", ["not ordered"];
    codes_released_to_one_producer_only: FP8_CLUSTER, "if (lane < Cluster)" => "if (lane < 1)", ["kv_empty"];
    codes_of_a_peer_that_has_left: FP8_CLUSTER,
        "leave_cluster<Config>();" => "", ["exited", "exits", "may exit before"];
}
