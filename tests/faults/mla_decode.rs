//! Faults in MLA decode: schedule, producers, softmax, products, stores, combine.

use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::{Device, Error};
use oracles::mla::AttentionClass;

use super::build::{Edit, Library};
use super::{SEEDS, caught_in};
use check::mla::decode::{STALE_PAGE, Step};

#[derive(Clone, Copy)]
enum Problem {
    /// One tile of rows, not full.
    Bf16,
    /// Two tiles of rows, whose CTAs share the keys.
    Cluster,
    Fp8,
    /// Two tiles of rows, whose CTAs dequantise half of the keys each.
    Fp8Cluster,
}

use Problem::{Bf16, Cluster, Fp8, Fp8Cluster};

impl Problem {
    fn kernels(self) -> [&'static str; 3] {
        let decode = match self {
            Bf16 => "mla_decode_bf16_c1",
            Cluster => "mla_decode_bf16_c2",
            Fp8 => "mla_decode_fp8_c1",
            Fp8Cluster => "mla_decode_fp8_c2",
        };
        ["mla_schedule", decode, "mla_combine"]
    }

    /// Empty sequences, several splits, borders, rows that see no key of a split, and pages that do not exist.
    fn run(self, device: &Device) {
        let format = if matches!(self, Fp8 | Fp8Cluster) { KvFormat::Fp8 } else { KvFormat::Bf16 };
        let heads = if matches!(self, Cluster | Fp8Cluster) { 64 } else { 21 };
        let step = Step { format, heads, q_tokens: 2, causal: true, ..Step::default() };
        for (class, lengths) in
            [(AttentionClass::Normal, vec![0, 300, 129, 0, 65]), (AttentionClass::OneKey, vec![200, 333])]
        {
            Step { class, lengths, ..step.clone() }.check(device);
            if let Err(error) = device.poll_error() {
                panic!("good data were reported: {error}");
            }
        }
        // No sequence has more than one split: nothing is combined.
        Step { lengths: vec![0, 70], split_keys: 1024, ..step.clone() }.check(device);
        let mut operands = Step { lengths: vec![1, 500, 100], ..step }.operands();
        let columns = operands.table.len() / 3;
        operands.table[columns] = STALE_PAGE;
        operands.lengths[1] = -5;
        operands.lengths[2] = i32::MAX;
        operands.table[2 * columns..].fill(STALE_PAGE);
        let bits = operands.run(device, None).unwrap_or_else(|error| panic!("{error}"));
        operands.judge(AttentionClass::Positive, &bits).unwrap_or_else(|text| panic!("{text}"));
        let Err(Error::Data(faults)) = device.poll_error() else { panic!("bad data went unreported") };
        assert!(faults.page_id() && faults.sequence_length(), "bad data went unreported");
    }
}

#[test]
fn no_fault() {
    for problem in [Bf16, Cluster, Fp8, Fp8Cluster] {
        let library = Library::of(&problem.kernels(), &[]);
        for seed in 0..SEEDS {
            problem.run(&library.device(seed));
        }
    }
}

macro_rules! faults {
    ($($name:ident: $problem:expr, $file:expr, $from:literal => $to:literal, [$($cause:literal),+];)*) => {$(
        #[test]
        fn $name() {
            let library = Library::of(&$problem.kernels(), &[Edit { file: $file, from: $from, to: $to }]);
            caught_in(&library, &|device| $problem.run(device), &[$($cause),+]);
        }
    )*};
}

const DECODE: &str = "mla/mla_decode.cuh";
const SYNC: &str = "hopper/cta/cta_sync.cuh";
const TILE: &str = "mla/mla_decode_tile.cuh";
const LOAD: &str = "mla/mla_decode_load.cuh";
const SOFTMAX: &str = "mla/mla_decode_softmax.cuh";
const STORE: &str = "mla/mla_decode_store.cuh";
const STATE: &str = "mla/mla_state.cuh";
const COMBINE: &str = "mla/mla_combine.cuh";
const SCHEDULE: &str = "mla/mla_schedule.cuh";
const SPLITS: &str = "mla/splits.h";

// Which keys a row sees.
faults! {
    no_tail_mask: Bf16, DECODE,
        "if (first_key + Config::kBlockKeys > all_see) mask_scores(rS, rows, first_key);" => "", ["elements are wrong"];
    causal_off_by_one: Bf16, SPLITS, "q_tokens - 1 - token : 0" => "q_tokens - token : 0", ["elements are wrong"];
    causal_aligned_to_the_top: Bf16, SPLITS, "causal ? q_tokens - 1 - token : 0" => "causal ? token : 0", ["elements are wrong"];
    mask_of_the_other_row: Bf16, SOFTMAX, "rows.visible[i % 4 / 2]" => "rows.visible[1 - i % 4 / 2]", ["elements are wrong"];
    mask_one_key_late: Bf16, SOFTMAX, "i % 2 >= rows.visible" => "i % 2 > rows.visible", ["elements are wrong"];
    row_of_another_token: Bf16, SOFTMAX, "row / params.heads" => "(row + 1) / params.heads", ["elements are wrong"];
    left_values_past_the_end_stay: Bf16, DECODE,
        "clear_values(smem, next.stage, 0, work.keys(j));" => "", ["elements are wrong"];
    right_values_past_the_end_stay: Bf16, DECODE,
        "clear_values(smem, kv.stage, 1, work.keys(j));" => "", ["elements are wrong"];
    cleared_values_without_a_fence: Bf16, DECODE,
        "  ptx::fence_proxy_async_shared();\n  warpgroup_sync(half);\n}" => "  warpgroup_sync(half);\n}", ["fence.proxy.async"];
    empty_sequence_reads_the_table: Bf16, TILE,
        "ceil_div(w.length - w.first_key, MLA_BLOCK_KEYS)" => "w.length / MLA_BLOCK_KEYS + 1", ["reported", "elements are wrong"];
}

// Splits and their order.
faults! {
    split_starts_a_block_late: Bf16, TILE,
        "w.split * params.split_blocks * MLA_BLOCK_KEYS" => "(w.split * params.split_blocks + w.split % 2) * MLA_BLOCK_KEYS",
        ["elements are wrong", "in flight", "waits"];
    split_ends_a_block_early: Bf16, TILE,
        "blocks_left < params.split_blocks ? blocks_left : params.split_blocks" => "blocks_left < params.split_blocks ? blocks_left : params.split_blocks - 1",
        ["elements are wrong"];
    empty_sequence_without_a_split: Bf16, SPLITS, "rest != 0 || length == 0" => "rest != 0", ["elements are wrong", "out of bounds", "outside", "race"];
    length_not_cut: Bf16, SPLITS, "positive < capacity ? positive : capacity" => "positive", ["out of bounds", "outside", "unreported"];
    negative_length_taken_for_a_large_one: Bf16, SPLITS,
        "length < 0 ? 0 : static_cast<uint32_t>(length)" => "static_cast<uint32_t>(length)", ["elements are wrong"];
    two_rests_in_one_place: Bf16, SCHEDULE,
        "(count.rest == own.rest && other < mine)" => "false", ["elements are wrong", "outside", "out of bounds", "race"];
    whole_splits_counted_twice: Bf16, SCHEDULE,
        "totals.whole_before += count.whole;" => "totals.whole_before += count.total();", ["elements are wrong", "outside", "out of bounds", "race"];
    offsets_of_the_next_sequence: Bf16, SCHEDULE, "if (other < mine)" => "if (other <= mine)", ["elements are wrong", "outside", "out of bounds", "race"];
    bad_length_goes_unreported: Bf16, SCHEDULE, "report_fault(params.error_words, FAULT_SEQUENCE_LENGTH)" => "(void)0", ["unreported"];
    part_of_another_split: Bf16, TILE, "- first, first + work.split}" => "- first, first}", ["elements are wrong", "race"];
    only_split_combined_too: Bf16, COMBINE, "if (count == 1) return;" => "", ["elements are wrong"];
    merge_without_max: Bf16, COMBINE, "ptx::ldg_f32(gState) - greatest)" => "ptx::ldg_f32(gState))", ["elements are wrong"];
    merge_with_the_max_of_each_lane: Bf16, COMBINE,
        "greatest = ptx::max_f32(greatest, ptx::shfl_xor(greatest, mask))" => "greatest = ptx::shfl_xor(greatest, 0)",
        ["elements are wrong"];
    sums_merged_without_weights: Bf16, COMBINE, "l = ptx::fma_rn(weight, part_l, l);" => "l += part_l;", ["elements are wrong"];
    last_part_left_out: Bf16, COMBINE, "i < count; ++i" => "i + 1 < count; ++i", ["elements are wrong"];
}

// Softmax.
faults! {
    lse_in_base_two: Bf16, STATE, "(m + ptx::lg2_approx(l)) * kLn2" => "(m + ptx::lg2_approx(l))", ["lse: "];
    nan_for_rows_without_keys: Bf16, SOFTMAX, "m == kMlaNoKey ? 0.0f : m" => "m", ["elements are wrong"];
    max_of_half_a_row: Bf16, SOFTMAX, "return ptx::max_f32(greatest, ptx::shfl_xor(greatest, 2));" => "return greatest;", ["elements are wrong"];
    sum_of_half_a_row: Bf16, SOFTMAX, "return pair + ptx::shfl_xor(pair, 2);" => "return pair;", ["elements are wrong"];
    sum_not_rescaled: Bf16, SOFTMAX, "rows.l[r] *= rescale[r];" => "", ["elements are wrong"];
    max_forgotten_between_blocks: Bf16, SOFTMAX, "ptx::max_f32(rows.m[r], block_max(rS, r) * scale_log2)" => "block_max(rS, r) * scale_log2", ["elements are wrong"];
    scores_not_scaled: Bf16, SOFTMAX, "ptx::fma_rn(s, scale_log2, -base)" => "ptx::fma_rn(s, 1.0f, -base)", ["elements are wrong"];
    left_sums_not_rescaled: Bf16, DECODE, "scale_rows(rO, rescale);" => "", ["elements are wrong"];
    right_sums_not_rescaled: Bf16, DECODE, "scale_rows(rO, factor);" => "", ["elements are wrong"];
}

// Products.
faults! {
    position_never_scored: Bf16, DECODE, "i == 0 ? Config::kRopeTile : i - 1" => "i == 0 ? 0 : i - 1", ["elements are wrong", "arrival on kv_full", "race"];
    scores_never_cleared: Bf16, DECODE, "i + byte != 0);" => "true);", ["elements are wrong", "uninitialised", "wgmma"];
    values_of_the_other_half: Bf16, DECODE,
        "descriptor_mn_major_128b(smem.kv(stage, half * Config::kHalfTiles)" => "descriptor_mn_major_128b(smem.kv(stage, 0)", ["elements are wrong", "race"];
    values_of_the_wrong_keys: Bf16, DECODE, "descriptor_advance(desc_v, key * 128)" => "descriptor_advance(desc_v, key * 64)", ["elements are wrong", "swizzle", "1024"];
    values_read_along_instead_of_across: Bf16, DECODE, "wgmma_k16_bf16_mn(rO" => "wgmma_k16_bf16(rO", ["elements are wrong", "in flight", "race", "out of bounds", "nothing has written"];
    weights_of_the_wrong_keys: Bf16, DECODE, "descriptor_advance(desc_p, key * 2)" => "descriptor_advance(desc_p, key)", ["elements are wrong"];
    softmax_before_the_scores_are_there: Bf16, DECODE, "ptx::wgmma_wait_group<1>(rS);" => "ptx::wgmma_wait_group<2>(rS);", ["wgmma", "not ordered"];
    sums_rescaled_in_flight: Bf16, DECODE,
        "ptx::wgmma_wait_group<0>(rO);\n    release_keys(smem, kv.stage, kLeftValues);\n    clear" => "release_keys(smem, kv.stage, kLeftValues);\n    clear",
        ["wgmma", "not ordered", "in flight"];
}

// What the roles tell each other.
faults! {
    weights_read_without_a_barrier: Bf16, DECODE, "ptx::mbarrier_wait(smem.p_full(), p.phase);" => "", ["not ordered", "nothing has written"];
    weights_of_the_other_warps_not_awaited: Bf16, DECODE,
        "ptx::mbarrier_wait(smem.p_full(), p.phase ^ 1);  // written" => "//", ["not ordered"];
    weights_overwritten_while_they_are_read: Bf16, DECODE,
        "ptx::mbarrier_wait(smem.p_empty(), p.phase ^ 1);\n    ptx::wgmma" => "ptx::wgmma", ["not ordered", "p_full"];
    weights_without_a_fence: Bf16, DECODE, "ptx::fence_proxy_async_shared();\n  publish_scale" => "publish_scale", ["fence.proxy.async"];
    weights_never_given_back: Bf16, DECODE, "      warp_arrive(smem.p_empty());\n    }" => "    }", ["waits for p_empty"];
    left_values_released_too_early: Bf16, DECODE,
        "    weigh(rO, smem, kv.stage, 0);    // rO" => "    release_keys(smem, kv.stage, kLeftValues);\n    weigh(rO, smem, kv.stage, 0);    // rO",
        ["not ordered", "in flight", "kv_empty"];
    right_values_released_too_early: Bf16, DECODE,
        "      weigh(rO, smem, kv.stage, 1);" => "      release_keys(smem, kv.stage, kRightValues);\n      weigh(rO, smem, kv.stage, 1);",
        ["not ordered", "in flight", "kv_empty"];
    position_never_released: Bf16, DECODE, "    release_keys(smem, next.stage, kRope);" => "", ["waits for kv_empty"];
    keys_read_before_they_land: Bf16, DECODE, "ptx::mbarrier_wait(smem.kv_full(kv.stage, tile), kv.phase);" => "", ["in flight", "nothing has written", "not ordered"];
    keys_loaded_over_left_values: Bf16, LOAD, "  await_free(smem, kv, kLeftValues);\n#pragma" => "#pragma", ["kv_full", "in flight", "not ordered"];
    queries_read_before_they_land: Bf16, DECODE, "ptx::mbarrier_wait(smem.q_full(), q.phase);" => "", ["in flight", "nothing has written", "not ordered"];
    queries_loaded_over_the_output: Bf16, LOAD, "ptx::mbarrier_wait(smem.q_empty(), q.phase ^ 1);" => "", ["q_full", "in flight", "not ordered"];
    output_given_back_while_it_is_copied: Bf16, STORE, "ptx::bulk_wait_group_read<0>();" => "", ["TMA store"];
    output_without_a_fence: Bf16, STORE, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    output_copied_before_all_have_written: Bf16, STORE, "  warpgroup_sync(half);\n  if (thread == 0)" => "  if (thread == 0)", ["not ordered", "TMA store"];
    cluster_keys_of_one_half_twice: Cluster, LOAD, "at.key + rank * (Config::kBlockKeys / 2)" => "at.key", ["elements are wrong"];
    cluster_released_to_one_producer_only: Cluster, SYNC, "if (lane < Config::kCluster)" => "if (lane < 1)", ["kv_empty"];
    cluster_leaves_before_its_peer: Cluster, DECODE,
        "  leave_cluster<Config>();" => "", ["exited", "exits", "gone", "may exit before"];
}

/// The left values are given back after the right ones (`p_empty`), so that a wait for both is missed only where they are
/// not.
#[test]
fn keys_loaded_over_right_values() {
    let no_wait = Edit { file: LOAD, from: "  await_free(smem, kv, kRightValues);\n#pragma", to: "#pragma" };
    let left_first = Edit {
        file: DECODE,
        from: "    ptx::mbarrier_wait(smem.p_empty(), p.phase ^ 1);\n    ptx::wgmma_wait_group<0>(rO);\n    \
               release_keys(smem, kv.stage, kLeftValues);",
        to: "    ptx::wgmma_wait_group<0>(rO);\n    release_keys(smem, kv.stage, kLeftValues);\n    \
             ptx::mbarrier_wait(smem.p_empty(), p.phase ^ 1);",
    };
    let library = Library::of(&Bf16.kernels(), &[no_wait, left_first]);
    caught_in(&library, &|device| Bf16.run(device), &["kv_full", "in flight", "not ordered"]);
}

// Pages, rows, codes.
faults! {
    page_of_the_next_entry: Bf16, LOAD, "params.page_table + work.sequence * params.table_pitch + entry" => "params.page_table + work.sequence * params.table_pitch + entry + 1",
        ["elements are wrong", "reported"];
    table_row_of_another_pitch: Bf16, LOAD, "work.sequence * params.table_pitch" => "work.sequence * (params.table_pitch - 1)", ["elements are wrong", "reported", "outside", "out of bounds", "race"];
    bad_page_goes_unreported: Bf16, LOAD, "report_fault(params.error_words, FAULT_PAGE_ID)" => "(void)0", ["unreported"];
    rows_past_the_last_are_stored: Bf16, STORE, "if (row >= params.rows) continue;" => "", ["elements are wrong", "outside", "out of bounds", "race", "race"];
    output_not_divided: Bf16, STATE, "l == 0.0f ? 0.0f : 1.0f / l" => "l == 0.0f ? 0.0f : 1.0f", ["elements are wrong"];
    part_in_the_wrong_columns: Bf16, STORE, "half * Config::kHalfColumns + fragment_column(thread)" => "half * Config::kHalfColumns + fragment_column(thread + 1)", ["elements are wrong"];
    scale_of_another_group: Fp8, LOAD, "* Config::kTileColumns / kKvScaleBlock" => "* Config::kTileColumns / 256", ["elements are wrong"];
    codes_exchanged_in_a_pair: Fp8, LOAD, "ptx::cvt_bf16x2(x.hi * scale, x.lo * scale)" => "ptx::cvt_bf16x2(x.lo * scale, x.hi * scale)", ["elements are wrong"];
    codes_of_the_next_key: Fp8, LOAD, "const uint32_t key = fp8_key<Config>(i);" => "const uint32_t key = fp8_key<Config>(i) + 1;", ["elements are wrong"];
    codes_without_a_fence: Fp8, LOAD, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    codes_past_the_end_stay: Fp8, LOAD, "|| key >= keys" => "|| key >= Config::kBlockKeys", ["elements are wrong"];
    codes_over_left_values: Fp8, LOAD, "await_free(smem, kv, kLeftValues);\n      store" => "store", ["not ordered"];
    codes_over_right_values: Fp8, LOAD, "await_free(smem, kv, kRightValues);\n      store" => "store", ["not ordered"];
    position_of_a_wrong_byte: Fp8, LOAD, "kKvFp8Rope, at);" => "kKvFp8Rope - 16, at);", ["elements are wrong"];
    bad_page_is_read: Fp8, LOAD, "if (at.page >= params.pages || key" => "if (key", ["outside", "out of bounds", "race"];
    scales_of_the_next_block: Fp8, LOAD, "store_codes(smem, kv.stage, Config::kHalfTiles, right, now);" => "store_codes(smem, kv.stage, Config::kHalfTiles, right, rows);", ["elements are wrong"];
}

// Dequantised keys handed to the peer.
faults! {
    both_ctas_dequantise_the_same_half: Fp8Cluster, LOAD, "ptx::cluster_rank() * 4" => "0", ["bulk copy", "in flight", "not ordered"];
    codes_copied_over_the_peers_own: Fp8Cluster, LOAD,
        "bulk_copy_to_cta(sKeys," => "bulk_copy_to_cta(smem.kv(stage, tile) + (fp8_key<Config>(0) ^ 32) * 128,", ["bulk copy", "in flight", "not ordered"];
    codes_copied_to_the_cta_itself: Fp8Cluster, LOAD, "ptx::cluster_rank() ^ 1" => "ptx::cluster_rank()", ["bulk copy"];
    peers_codes_not_announced: Fp8Cluster, LOAD,
        "ptx::mbarrier_arrive_expect_tx(full, kBytes);" => "ptx::mbarrier_arrive(full);", ["expect_tx", "in flight"];
    codes_copied_without_a_fence: Fp8Cluster, LOAD, "ptx::fence_proxy_async_shared();" => "", ["bulk copy"];
    codes_copied_before_all_lanes_have_stored: Fp8Cluster, LOAD,
        "    ptx::syncwarp();\n    if (ptx::thread_idx() % 32 != 0) return;" => "    if (ptx::thread_idx() % 32 != 0) return;", ["bulk copy"];
    half_of_a_warps_codes_copied: Fp8Cluster, LOAD, "sKeys, kBytes," => "sKeys, kBytes / 2,", ["kv_full"];
    codes_copied_over_the_peers_left_values: Fp8Cluster, LOAD, "await_free(smem, kv, kLeftValues);\n      store" => "store", ["not ordered", "in flight"];
    codes_copied_over_the_peers_right_values: Fp8Cluster, LOAD, "await_free(smem, kv, kRightValues);\n      store" => "store", ["not ordered", "in flight"];
    codes_wait_at_cta_scope_only: Fp8Cluster, SYNC,
        "ptx::mbarrier_wait_cluster(bar, parity);" => "ptx::mbarrier_wait(bar, parity);", ["not ordered"];
    codes_released_to_one_producer_only: Fp8Cluster, SYNC, "if (lane < Config::kCluster)" => "if (lane < 1)", ["kv_empty"];
    codes_of_a_peer_that_has_left: Fp8Cluster, DECODE,
        "  leave_cluster<Config>();" => "", ["exited", "exits", "may exit before"];
}
