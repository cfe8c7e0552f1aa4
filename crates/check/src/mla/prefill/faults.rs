//! Faults in MLA prefill: sequences, producer, masks, products, stores.

use crate::mla::ROPE;
use crate::mla::prefill::{KeyLayout, MlaPrefillCase, MlaPrefillProblem, NOPE, QUERY, VALUE};
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::bf16;
use deepseek_kernels::mla::LseOrder;
use oracles::mla::{AttentionClass, HeadColumns};
use std::sync::Arc;

/// Keys as they are projected.
const PREFILL: Trial = Trial::Changed(|| prefills(KeyLayout::Projected));
/// Keys that lie together, and lse in the other order.
const JOINED: Trial = Trial::Changed(|| prefills(KeyLayout::Joined));
/// Heads of GLM-5.
const WIDE_HEADS: Trial = Trial::Changed(|| {
    let of = |sequences: &[(usize, usize)], causal| {
        let case = MlaPrefillCase::new(sequences.to_vec());
        MlaPrefillCase { columns: HeadColumns::GLM_5, causal, ..case }.problem().expect("inputs")
    };
    [of(&[(130, 200), (5, 70)], true), of(&[(70, 150), (3, 9)], false)].map(changed).into()
});
/// Offsets of 64 bits.
const WIDE: Trial = Trial::Wide(|| prefills(KeyLayout::Projected));
/// Values and scores that show in which order they were added, and means that show how they were divided: half of the values
/// are one BF16, half the next. A quotient is the tie between them, a product with the rounded inverse of 82 is not.
const ORDER: Trial = Trial::Changed(|| {
    let of = |class, keys| {
        let case = MlaPrefillCase { class, causal: false, ..MlaPrefillCase::new(vec![(70, keys), (3, 40)]) };
        case.problem().expect("inputs")
    };
    let mut means = of(AttentionClass::Uniform, 82);
    for (index, value) in means.v.iter_mut().enumerate().filter(|(_, value)| !value.is_nan()) {
        let (key, column) = (index / (2 * VALUE), index % VALUE);
        *value = bf16::from_bits(bf16::ONE.to_bits() + (column % 127 + key % 2) as u16);
    }
    [of(AttentionClass::Cancelling, 300), of(AttentionClass::Peaked, 300), means].map(changed).into()
});
/// A row whose every score is -Inf: the first column of the position is 1 in every key.
const LOST: Trial = Trial::Changed(|| {
    let mut problem = MlaPrefillCase::new(vec![(9, 70), (3, 0)]).problem().expect("inputs");
    problem.finite = false;
    problem.k_pe.chunks_exact_mut(ROPE).for_each(|row| row[0] = bf16::ONE);
    problem.q[5 * QUERY + NOPE] = bf16::NEG_INFINITY;
    vec![changed(problem)]
});

fn changed(problem: MlaPrefillProblem) -> Changed {
    (Box::new(problem.case.clone()), Arc::new(problem))
}

/// Sequences without tokens or keys, several tiles and blocks, borders, more sequences than a warp has lanes, and offsets that
/// are none.
fn prefills(layout: KeyLayout) -> Vec<Changed> {
    let lse_order = match layout {
        KeyLayout::Projected => LseOrder::TokensHeads,
        KeyLayout::Joined => LseOrder::HeadsTokens,
    };
    let of = |sequences: &[(usize, usize)], causal| {
        let case = MlaPrefillCase::new(sequences.to_vec());
        MlaPrefillCase { layout, lse_order, causal, ..case }.problem().expect("inputs")
    };
    let mut many = vec![(2, 3); 33];
    many.extend([(140, 140), (1, 130)]);
    let mut strange = of(&[(130, 150), (5, 130), (9, 9)], true).with_spare_rows();
    strange.q_offsets[1..3].reverse();
    strange.k_offsets = vec![-7, 150, 3, i32::MAX];
    let several = [(130, 300), (0, 70), (70, 0), (5, 129), (1, 3), (70, 520)];
    [of(&several, true), of(&[(140, 260), (1, 3)], false), of(&many, true), strange].map(changed).into()
}

faults! {
    row_of_negative_infinity_unreported: LOST,
        "if (l[r] == 0.0f && rows.visible[r] != 0)" => "if (false)", ["got one of nothing"];
    rows_without_keys_reported: PREFILL,
        "l[r] == 0.0f && rows.visible[r] != 0" => "l[r] == 0.0f", ["expected a report of nothing"];

    // Which tile a CTA has.
    offsets_out_of_order_go_unreported: PREFILL,
        "if (clamped) report_fault(params.error_words, FAULT_SEQUENCE_LENGTH);" => "", ["got one of nothing"];
    sequence_begins_before_an_earlier_one_has_ended: PREFILL,
        "range.first = before > furthest ? before : furthest" => "range.first = furthest",
        ["elements are wrong", "written", "race"];
    sequences_of_an_earlier_round_forgotten: PREFILL,
        "range.first = before > furthest ? before : furthest" => "range.first = before",
        ["elements are wrong", "written", "race"];
    sequence_out_of_order_has_a_row: PREFILL,
        "range.end = end > range.first ? end : range.first" => "range.end = end > range.first ? end : range.first + 1",
        ["elements are wrong", "written", "outside", "out of bounds", "race", "expected a report"];
    tiles_of_an_earlier_round_not_counted: PREFILL,
        "counted += ptx::reduce_add_u32(tiles);" => "", ["elements are wrong", "written", "race"];
    tile_of_two_sequences: PREFILL,
        "mine = wanted - before < tiles" => "mine = wanted - before <= tiles",
        ["elements are wrong", "written", "race", "outside", "out of bounds"];
    rows_of_the_next_sequence_are_stored: PREFILL,
        "left < Config::kBlockRows ? left : Config::kBlockRows" => "Config::kBlockRows",
        ["elements are wrong", "written", "outside", "out of bounds", "race"];
    blocks_of_the_first_token: PREFILL,
        "work.visible(work.rows - 1, params.causal != 0), Config::kBlockKeys)"
            => "work.visible(0, params.causal != 0), Config::kBlockKeys)",
        ["elements are wrong"];
    every_tile_of_the_first_head: PREFILL,
        "work.head = ptx::cta_idx() / params.tiles" => "work.head = 0", ["written", "race"];
    keys_of_another_sequence: PREFILL,
        "work.key = of_lane(mine, k.first)" => "work.key = of_lane(mine, k.first) + 1", ["elements are wrong"];
    high_word_of_offsets_ignored: WIDE,
        "high == low >> 31 ? low : INT32_MIN" => "low", ["elements are wrong", "got one of", "written"];
    wide_offsets_read_as_narrow: WIDE,
        "column * indices.words_per_index" => "column", ["elements are wrong", "got one of", "outside", "written"];

    // Which keys a row sees.
    never_masked: PREFILL,
        "if ((j + 1) * Config::kBlockKeys > all_see) mask_scores" => "if (false) mask_scores", ["elements are wrong"];
    masked_from_the_last_row_on: PREFILL,
        "all_see = work.visible(half * kPrefillHalfRows," => "all_see = work.visible((half + 1) * kPrefillHalfRows - 1,",
        ["elements are wrong"];
    mask_of_the_other_warpgroup: PREFILL,
        "first_row = half * kPrefillHalfRows + fragment_row" => "first_row = (1 - half) * kPrefillHalfRows + fragment_row",
        ["elements are wrong", "written", "race", "lse: "];
    tokens_counted_from_the_tile: PREFILL,
        "visible_keys(keys, token + (t < rows ? t : rows - 1)" => "visible_keys(keys, (t < rows ? t : rows - 1)",
        ["elements are wrong"];
    values_of_the_next_sequence_stay: PREFILL,
        "clear_values(smem, v.stage, half, work.keys - (work.blocks - 1) * Config::kBlockKeys);" => "",
        ["elements are wrong"];
    a_key_too_few_cleared: PREFILL,
        "uint32_t i = keys * 8 + ptx::thread_idx() % 128" => "uint32_t i = keys * 8 + 8 + ptx::thread_idx() % 128",
        ["elements are wrong"];
    half_of_the_values_cleared: PREFILL,
        "ptx::sts_v4_u32(smem.v(stage, half * kTiles + tile) + i * 16, {});"
            => "if (half == 0) ptx::sts_v4_u32(smem.v(stage, tile) + i * 16, {});",
        ["elements are wrong"];
    cleared_values_without_a_fence: PREFILL,
        "void clear_values(MlaPrefillSmem<Config> ... ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    values_read_before_the_other_warpgroup_has_cleared: PREFILL,
        "both_warpgroups_sync(); }" => "warpgroup_sync(half); }", ["not ordered", "fence.proxy.async"];
    values_cleared_before_they_land: PREFILL,
        "smem.v_pipeline().await_full(v); clear_values" => "clear_values",
        ["in flight", "nothing has written", "not ordered"];

    // The producer.
    position_of_the_first_head: JOINED, "0, head % params.k_pe_heads, key" => "0, 0, key", ["elements are wrong"];
    position_of_no_head: PREFILL, "0, head % params.k_pe_heads, key" => "0, head, key", ["elements are wrong"];
    values_of_the_block_before: PREFILL,
        "work.key + (j - 1) * Config::kBlockKeys" => "work.key + (j < 2 ? 0 : j - 2) * Config::kBlockKeys",
        ["elements are wrong"];
    expect_tx_of_half_the_queries: PREFILL,
        "sizeof(MlaPrefillStorage<Config>::q)" => "sizeof(MlaPrefillStorage<Config>::q) / 2", ["q_full", "in flight"];
    expect_tx_of_keys_for_values: PREFILL,
        "sizeof(MlaPrefillStorage<Config>::v[0])" => "sizeof(MlaPrefillStorage<Config>::k[0])", ["waits for v_full"];
    keys_loaded_over_those_in_use: PREFILL,
        "smem.k_pipeline().await_empty(k);" => "", ["k_full", "in flight", "not ordered"];
    values_loaded_over_those_in_use: PREFILL,
        "smem.v_pipeline().await_empty(v);" => "", ["v_full", "in flight", "not ordered"];
    released_by_one_warpgroup_only: PREFILL,
        "kMathWarps = 8;  // each" => "kMathWarps = 4;  // each", ["k_empty", "v_empty", "k_full", "in flight", "not ordered"];
    barriers_used_before_they_are_there: PREFILL,
        "init_barriers(smem); ptx::syncthreads(); enter_grid();" => "init_barriers(smem); enter_grid();",
        ["mbarrier"];
    only_the_producer_waits_for_the_grids_ahead: PREFILL,
        "void mla_prefill_kernel ... enter_grid();" => "if (ptx::thread_idx() / 128 == 2) enter_grid();",
        ["load before griddepcontrol.wait: a grid ahead", "exits without griddepcontrol.wait"];

    // Products.
    queries_read_before_they_land: PREFILL,
        "ptx::mbarrier_wait(smem.q_full(), 0);" => "", ["in flight", "nothing has written", "not ordered"];
    keys_read_before_they_land: PREFILL,
        "smem.k_pipeline().await_full(k);" => "", ["in flight", "nothing has written", "not ordered"];
    values_read_before_they_land: PREFILL,
        "smem.v_pipeline().await_full(v); weigh" => "weigh", ["in flight", "nothing has written", "not ordered"];
    queries_of_the_other_warpgroup: PREFILL,
        "descriptor_k_major_128b(smem.q(tile, half))" => "descriptor_k_major_128b(smem.q(tile, 0))",
        ["elements are wrong"];
    scores_never_cleared: PREFILL,
        "descriptor_advance(desc_k, byte), tile + byte != 0" => "descriptor_advance(desc_k, byte), true",
        ["elements are wrong", "uninitialised", "wgmma"];
    position_scored_twice: PREFILL,
        "descriptor_k_major_128b(smem.k(k.stage, tile))" => "descriptor_k_major_128b(smem.k(k.stage, tile == 0 ? 2 : tile))",
        ["elements are wrong"];
    values_of_the_wrong_keys: PREFILL,
        "rP[step], descriptor_advance(desc_v, step * 16 * 128)" => "rP[step], descriptor_advance(desc_v, step * 16 * 64)",
        ["elements are wrong", "swizzle", "1024"];
    softmax_before_the_scores_are_there: PREFILL,
        "ptx::wgmma_wait_group<1>(rS); softmax(j);" => "softmax(j);", ["in flight"];
    weights_written_that_the_tensor_core_owns: PREFILL,
        "uint32_t j = 1;; ++j) { ptx::wgmma_wait_group<0>(rO, rP);"
            => "uint32_t j = 1;; ++j) { ptx::wgmma_wait_group<0>(rO);",
        ["of A was written"];
    sums_rescaled_in_flight: PREFILL,
        "uint32_t j = 1;; ++j) { ptx::wgmma_wait_group<0>(rO, rP);" => "uint32_t j = 1;; ++j) {",
        ["wgmma", "not ordered", "in flight", "owns one of its accumulators", "of A was written"];
    sums_stored_in_flight: PREFILL,
        "weigh<Config>(rO, rP, smem, v.stage); ptx::wgmma_wait_group<0>(rO, rP);" => "weigh<Config>(rO, rP, smem, v.stage);",
        ["wgmma", "not ordered", "in flight", "owns one of its accumulators"];
    keys_never_given_back: PREFILL, "smem.k_pipeline().release(k);" => "", ["waits for k_empty"];
    values_never_given_back: PREFILL, "smem.v_pipeline().release(v);" => "", ["waits for v_empty"];
    values_given_back_in_flight: PREFILL,
        "weigh<Config>(rO, rP, smem, v.stage); ptx::wgmma_wait_group<1>(rS);"
            => "weigh<Config>(rO, rP, smem, v.stage); smem.v_pipeline().release(v); ptx::wgmma_wait_group<1>(rS);",
        "if (j > 1) { smem.v_pipeline().release(v);" => "if (j > 1) {",
        ["not ordered", "in flight", "v_empty"];
    sums_not_rescaled: PREFILL,
        "scale_rows(rO, rescale); pack_fragment_bf16(rP, rS);" => "pack_fragment_bf16(rP, rS);", ["elements are wrong"];
    output_not_divided: PREFILL,
        "scale_rows(rO, inverse); store_lse" => "store_lse", ["elements are wrong"];

    // Results.
    output_of_rows_past_the_last: PREFILL,
        "if (of_tile >= work.rows) return nullptr;" => "",
        ["elements are wrong", "written", "outside", "out of bounds", "race"];
    output_read_back_before_all_lanes_have_written: PREFILL,
        "void copy_fragment_rows ... ptx::syncwarp();" => "", ["not ordered", "race", "nothing has written"];
    output_over_queries_of_the_other_warpgroup: PREFILL,
        "[&](uint32_t tile, uint32_t row) { return smem.q(tile, half) + row * 128; }"
            => "[&](uint32_t tile, uint32_t row) { return smem.q(tile, 0) + row * 128; }",
        ["not ordered", "elements are wrong", "race", "in flight"];
    output_by_the_wrong_stride: JOINED,
        "work.head * params.out_head_stride" => "work.head * Config::kNope / 2", ["elements are wrong", "written", "race"];
    lse_of_rows_past_the_last: PREFILL,
        "ptx::thread_idx() % 4 != 0 || row >= work.rows" => "ptx::thread_idx() % 4 != 0",
        ["lse: ", "lse[", "written", "outside", "out of bounds", "race"];
    lse_without_its_pitch: PREFILL,
        "lse_element(params.lse_strides, work.row + row, work.head)"
            => "uint64_t{work.row + row} * params.heads + work.head",
        ["lse: ", "lse[", "around lse", "written", "race"];
    lse_of_another_head: JOINED,
        "work.row + row, work.head)" => "work.row + row, params.heads - 1 - work.head)", ["lse: ", "lse["];
    lse_of_the_sequence_alone: JOINED,
        "work.row + row, work.head)" => "row, work.head)", ["lse: ", "lse[", "written", "race", "not ordered"];

    // Widths.
    position_behind_narrow_keys: WIDE_HEADS,
        "constexpr uint32_t kPosition = kPrefillKeyTiles<Config> - 1;" => "constexpr uint32_t kPosition = 2;",
        ["k_full", "elements are wrong"];
    scores_of_narrow_keys: WIDE_HEADS,
        "tile < kPrefillKeyTiles<Config>; ++tile) { const uint64_t desc_q" => "tile < 3; ++tile) { const uint64_t desc_q",
        ["elements are wrong"];
    values_as_far_apart_as_narrow_ones: WIDE_HEADS,
        "descriptor_mn_major_128b(smem.v(stage, 0), MlaPrefillStorage<Config>::kKeyTileBytes)"
            => "descriptor_mn_major_128b(smem.v(stage, 0), 128 * 128)",
        ["elements are wrong", "in flight", "not ordered", "nothing has written"];
    a_tile_of_wide_values_not_cleared: WIDE_HEADS,
        "smem.v(stage, half * kTiles + tile) + i * 16" => "smem.v(stage, half * kTiles) + i * 16", ["elements are wrong"];
    output_of_narrow_values: WIDE_HEADS,
        "copy_fragment_rows<128, Config::kValue>" => "copy_fragment_rows<128, 128>", ["elements are wrong"];
    queries_as_wide_as_values: WIDE_HEADS,
        "void load_q ... tile < kPrefillKeyTiles<Config>; ++tile" => "tile < 3; ++tile", ["q_full"];

    // The order that is pinned.
    keys_from_the_last_on: ORDER,
        "wgmma_rs_k16_bf16_mn(rO, rP[step], descriptor_advance(desc_v, step * 16 * 128), true)"
            => "wgmma_rs_k16_bf16_mn(rO, rP[7 - step], descriptor_advance(desc_v, (7 - step) * 16 * 128), true)",
        ["bit model"];
    position_scored_first: ORDER,
        "tile = 0; tile < kPrefillKeyTiles<Config>; ++tile) { const uint64_t desc_q = descriptor_k_major_128b(smem.q(tile, half))"
            => "tile = 0; tile < kPrefillKeyTiles<Config>; ++tile) { const uint64_t desc_q = descriptor_k_major_128b(smem.q((tile + 2) % 3, half))",
        "descriptor_k_major_128b(smem.k(k.stage, tile))" => "descriptor_k_major_128b(smem.k(k.stage, (tile + 2) % 3))",
        ["bit model"];
    divided_instead_of_multiplied_with_the_inverse: ORDER,
        "scale_rows(rO, inverse);"
            => "for (int i = 0; i < kPrefillOutRegisters<Config>; ++i) rO[i] /= 1.0f / inverse[i % 4 / 2];",
        ["bit model"];
}
