//! Faults in the GEMM of one matrix, and in what it shares with the grouped one.

use crate::case::{Cases, boxed};
use crate::gemm::fp8_gemm::Fp8GemmCase;
use crate::planted::{Trial, faults};
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, OutputType};
use oracles::gemm::GemmClass;

const ONE: Trial = Trial::Cases(|| multiply((128, 1), false));
/// A cluster of two CTAs.
const TWO: Trial = Trial::Cases(|| multiply((128, 2), false));
/// Two scales of B a tile, and one K block in flight.
const WIDE: Trial = Trial::Cases(|| multiply((192, 1), false));
/// Nine spans of columns, and as many boxes of D.
const NARROW_SPANS: Trial = Trial::Cases(|| multiply((144, 2), false));
/// Adds to D.
const ACCUMULATE: Trial = Trial::Cases(|| multiply((128, 1), true));

/// Fewer rows than a warpgroup multiplies, and than the first of two does.
const FEW: Trial = Trial::Cases(|| {
    let instance = |block_m| GEMM_INSTANCES.iter().find(|i| i.block_m == block_m).expect("an instance");
    boxed([64, 128].map(|block_m| Fp8GemmCase::new((9, 136, 1664)).with(*instance(block_m))))
});

/// FP32 results of normal data, and of data that cancel: they show the order of every sum, and each rounding.
const ORDER: Trial = Trial::Cases(|| {
    let instance = GEMM_INSTANCES.iter().find(|i| (i.block_m, i.output) == (128, OutputType::F32));
    let instance = *instance.expect("an instance");
    let case = |class| Fp8GemmCase { class, ..Fp8GemmCase::new((66, 136, 640)) }.with(instance);
    boxed([GemmClass::Normal, GemmClass::Cancelling].map(case))
});

/// Every special scale of A beside every special scale of B.
const SPECIAL_SCALES: Trial = Trial::Cases(|| {
    boxed([Fp8GemmCase { class: GemmClass::SpecialScales, ..Fp8GemmCase::new((22, 1288, 256)) }])
});

/// Four rows of scales of B.
const FAR: Trial = Trial::Far(|| boxed([Fp8GemmCase::new((70, 392, 384))]));

/// Several ragged tiles per CTA, more K blocks than stages.
fn multiply((block_n, cluster): (u32, u32), accumulate: bool) -> Cases {
    let wanted = (128, block_n, cluster, 2);
    let mut instances = GEMM_INSTANCES.iter();
    let instance = instances.find(|i| (i.block_m, i.block_n, i.cluster, i.output.bytes()) == wanted);
    let instance = *instance.expect("an instance");
    boxed([Fp8GemmCase { accumulate, seed: 7, ..Fp8GemmCase::new((200, 392, 1024)) }.with(instance)])
}

faults! {
    // The ring: waits, arrivals, bytes, phases.
    consumer_skips_the_full_wait: ONE,
        "smem.pipeline().await_full(ahead);" => "",
        ["TMA load in flight", "nothing has written", "not ordered"];
    producer_skips_the_empty_wait: ONE,
        "smem.pipeline().await_empty(ring);" => "", ["full[0]", "in flight"];
    producer_reads_what_it_overwrites: ONE,
        "smem.pipeline().await_empty(ring);"
            => "smem.pipeline().await_empty(ring); if (ring.phase != 0) (void)ptx::lds_f32(smem.sfa(ring.stage));",
        ["handed over by no mbarrier and no fence.proxy.async"];
    producer_writes_what_it_overwrites: ONE,
        "smem.pipeline().await_empty(ring);"
            => "smem.pipeline().await_empty(ring); if (ring.phase != 0) ptx::sts_f32(smem.sfa(ring.stage), 0.0f);",
        ["a thread wrote without a fence.proxy.async since"];
    empty_wait_starts_in_the_wrong_phase: ONE,
        "empty(ring.stage), ring.phase ^ 1" => "empty(ring.stage), ring.phase", ["waits for empty[0]"];
    full_wait_starts_in_the_wrong_phase: ONE,
        "full(ring.stage), ring.phase" => "full(ring.stage), ring.phase ^ 1",
        ["TMA load in flight", "nothing has written", "not ordered"];
    phase_never_flips: ONE, "phase ^= 1;" => "", ["full[0]", "empty[0]", "in flight"];
    ring_one_stage_too_long: ONE, "++stage == Stages" => "++stage == Stages + 1", ["mbarrier", "out of bounds"];
    expect_tx_too_small: ONE,
        "Tile::kRowBytes + Tile::kBBytes" => "Config::kBlockK + Tile::kBBytes", ["expect_tx", "in flight"];
    expect_tx_too_large: ONE,
        "Tile::kRowBytes + Tile::kBBytes" => "Tile::kRowBytes + Tile::kBBytes + 16", ["16 bytes missing"];
    expect_tx_of_rows_that_no_box_has: FEW,
        "params.a_box_rows * Tile::kRowBytes" => "Config::kBlockM * Tile::kRowBytes", ["bytes missing"];
    missing_rows_left_as_they_are: FEW,
        "clear_missing_rows(params, smem, warpgroup);" => "", ["nothing has written"];
    missing_rows_cleared_in_all_stages_but_one: FEW,
        "stage < Config::kStages; ++stage) {" => "stage < Config::kStages - 1; ++stage) {", ["nothing has written"];
    missing_rows_cleared_but_the_first: FEW,
        "params.a_box_rows > own ? params.a_box_rows" => "params.a_box_rows > own ? params.a_box_rows + 4",
        ["nothing has written"];
    missing_rows_with_one_that_a_box_has: FEW,
        "params.a_box_rows > own ? params.a_box_rows" => "params.a_box_rows > own ? params.a_box_rows - 4",
        ["TMA load in flight", "not ordered", "elements are wrong"];
    scales_of_missing_rows_left_as_they_are: FEW,
        "if (row < end) ptx::sts_v4_u32(smem.sfa(stage) + row * sizeof(float), {});" => "", ["nothing has written"];
    no_proxy_fence_after_clearing_rows: FEW,
        "void clear_missing_rows ... warpgroup_fence_async(warpgroup);" => "warpgroup_sync(warpgroup);",
        ["fence.proxy.async"];
    no_barrier_after_clearing_rows: FEW,
        "void clear_missing_rows ... warpgroup_fence_async(warpgroup);" => "ptx::fence_proxy_async_shared();",
        ["not ordered", "fence.proxy"];
    load_of_a_missing: ONE,
        "ptx::tma_load_2d(params.map_a, smem.a(stage), full, k, tile.row);" => "", ["bytes missing"];
    load_of_scales_missing: ONE,
        "ptx::tma_load_2d(params.map_sfa, smem.sfa(stage), full, tile.row, g);" => "", ["bytes missing"];
    stage_released_before_its_products: ONE,
        "ptx::wgmma_wait_group<Pending>(rPartial);" => "",
        "void finish ... release();" => "release(); ptx::wgmma_wait_group<Pending>(rPartial);",
        ["empty[", "not ordered", "in flight"];
    stage_never_released: ONE, "if (ptx::thread_idx() % 32 == 0) ptx::mbarrier_arrive(bar);" => "", ["waits for empty["];
    no_syncwarp_before_the_release: ONE, "void warp_arrive ... ptx::syncwarp();" => "", ["not ordered after the read"];
    too_few_arrivals_expected: ONE,
        "kCluster * kMathWarpgroups * 4" => "kCluster * kMathWarpgroups * 4 - 1",
        ["empty[", "not ordered", "in flight"];
    two_producers_expected: ONE,
        "smem.pipeline().init(1" => "smem.pipeline().init(2", ["waits for full[0]"];
    barrier_never_initialised: ONE, "init_mbarrier(full(stage), fills, full_name, stage);" => "", ["mbarrier"];
    no_fence_after_mbarrier_init: ONE, "ptx::fence_mbarrier_init();" => "", ["fence.mbarrier_init"];
    no_barrier_after_mbarrier_init: ONE, "enter_cluster<Config>();" => "", ["mbarrier.init", "not ordered"];

    // Products and promotion.
    no_wgmma_fence: ONE, "ptx::wgmma_fence();" => "", ["wgmma.fence"];
    no_wgmma_commit: ONE, "ptx::wgmma_commit_group();" => "", ["wgmma", "in flight"];
    no_wgmma_wait: ONE, "wgmma_wait_group<Pending>" => "wgmma_wait_group<Pending + 1>", ["wgmma", "not ordered"];
    wrong_advance_along_k: ONE,
        "descriptor_advance(desc_b, k)" => "descriptor_advance(desc_b, k / 2)", ["elements are wrong"];
    partial_sum_never_cleared: ONE, "k != 0" => "true", ["elements are wrong", "uninitialised", "wgmma"];
    partial_sum_cleared_too_often: ONE, "k != 0" => "false", ["elements are wrong"];
    last_k32_dropped: ONE, "k < Config::kBlockK" => "k < Config::kBlockK - 32", ["elements are wrong"];
    descriptor_without_swizzle: ONE,
        "kSwizzle128 = 1" => "kSwizzle128 = 0", ["elements are wrong", "out of bounds", "nothing has written"];
    descriptor_with_a_wrong_group_stride: ONE,
        "kGroupBytes = 8 * 128" => "kGroupBytes = 8 * 64", ["elements are wrong", "swizzle"];
    no_promotion: ONE,
        "ptx::fma_rn(scale[i * kSpans / Registers][i % 4 / 2], rPartial[i], rD[i])" => "rPartial[i]",
        ["elements are wrong"];
    product_and_sum_rounded_apart: ORDER,
        "ptx::fma_rn(scale[i * kSpans / Registers][i % 4 / 2], rPartial[i], rD[i])"
            => "scale[i * kSpans / Registers][i % 4 / 2] * rPartial[i] + rD[i]",
        ["bit model: "];
    scales_applied_one_after_the_other: ORDER,
        "ptx::fma_rn(scale[i * kSpans / Registers][i % 4 / 2], rPartial[i], rD[i])"
            => "ptx::fma_rn(sfa[i % 4 / 2], sfb.first * rPartial[i], rD[i])",
        ["bit model: "];
    scale_of_b_applied_last: ORDER,
        "ptx::fma_rn(scale[i * kSpans / Registers][i % 4 / 2], rPartial[i], rD[i])"
            => "ptx::fma_rn(sfb.first, sfa[i % 4 / 2] * rPartial[i], rD[i])",
        ["bit model: "];
    zero_scale_of_a_times_infinity_is_zero: SPECIAL_SCALES,
        "first = ptx::mul_rn(sfa[i], sfb.first)" => "first = sfa[i] == 0.0f ? 0.0f : ptx::mul_rn(sfa[i], sfb.first)",
        ["expected NaN"];
    steps_of_a_block_descending: ORDER,
        "descriptor_advance(desc_a, k), descriptor_advance(desc_b, k)"
            => "descriptor_advance(desc_a, Config::kBlockK - 32 - k), descriptor_advance(desc_b, Config::kBlockK - 32 - k)",
        ["bit model: "];
    blocks_descending: ORDER,
        "load_stage(params, smem, ring.stage, tile, g)"
            => "load_stage(params, smem, ring.stage, tile, params.k_blocks - 1 - g)",
        "row) * params.sfb_pitch;" => "row) * params.sfb_pitch + params.k_blocks - 1;",
        "scales.gSfb += 2;" => "scales.gSfb -= 2;",
        "{ptx::ldg_f32(gSfb + g), Tile::kSpans == 1 ? 0.0f : ptx::ldg_f32(gSfb + next + g)}"
            => "{ptx::ldg_f32(gSfb - g), Tile::kSpans == 1 ? 0.0f : ptx::ldg_f32(gSfb + next - g)}",
        ["bit model: "];
    sum_rounded_before_d_is_added: ACCUMULATE,
        "rD[i] += ptx::bf16_lo_f32(pair);"
            => "rD[i] = ptx::bf16_lo_f32(ptx::cvt_bf16x2(0.0f, rD[i])) + ptx::bf16_lo_f32(pair);",
        ["elements are wrong"];
    scales_of_the_other_row: ONE, "[i % 4 / 2], rPartial" => "[1 - i % 4 / 2], rPartial", ["elements are wrong"];
    scale_row_shifted: ONE,
        "void accumulate_two ... ptx::thread_idx() % 128)" => "ptx::thread_idx() % 128) + 1",
        ["elements are wrong", "nothing has written", "in flight", "race", "part of an mbarrier"];
    scale_of_b_shifted: ONE,
        "even = scales.load(0), odd" => "even = scales.load(1), odd", ["elements are wrong", "sfb"];
    scale_of_b_of_the_first_blocks: ONE, "scales.gSfb += 2;" => "", ["elements are wrong"];
    scale_of_b_past_the_last_block: WIDE, "if (blocks > 1) sfb =" => "sfb =", ["global load of 4 bytes"];
    scale_of_b_a_block_early: ONE,
        "blocks > 2 ... even, scales, release" => "(even = scales.load(0)), scales, release",
        "even = scales.load(0);" => "",
        ["elements are wrong"];
    rows_of_scales_counted_in_32_bits: FAR,
        "static_cast<uint64_t>(row) * params.sfb_pitch" => "row * params.sfb_pitch", ["elements are wrong"];
    scale_of_b_of_another_tile: ONE,
        "tile.column / Config::kScaleColumns" => "tile.column / 256", ["elements are wrong"];
    scale_of_the_next_columns_missing: WIDE, "ptx::mul_rn(sfa[i], sfb.next)" => "ptx::mul_rn(sfa[i], sfb.first)", ["elements are wrong"];
    scale_of_the_middle_columns: WIDE, "(span > 0 && span >= first_spans)" => "false", ["elements are wrong"];
    scales_change_a_span_early: NARROW_SPANS, "span >= first_spans" => "span + 1 >= first_spans", ["elements are wrong"];
    scales_change_a_span_late: NARROW_SPANS, "span >= first_spans" => "span > first_spans", ["elements are wrong"];
    scales_change_where_the_first_tile_s_do: NARROW_SPANS,
        "- tile.column % Config::kScaleColumns / Tile::kSpanColumns" => "", ["elements are wrong"];
    scale_of_columns_past_the_last: WIDE,
        "< params.n ? params.sfb_pitch : 0" => "< params.n + 128 ? params.sfb_pitch : 0", ["global load of 4 bytes"];
    products_of_the_block_before: WIDE,
        "void accumulate_one ... smem.pipeline().await_full(ring);" => "",
        ["TMA load in flight", "nothing has written", "not ordered"];
    k_blocks_one_short: ONE,
        "accumulate_two<Config> ... params.k_blocks" => "params.k_blocks - 1",
        ["exits while a TMA load counted on full[0] is in flight", "elements are wrong"];

    // Tiles and the way to D.
    coordinates_swapped: ONE,
        "smem.a(stage), full, k, tile.row" => "smem.a(stage), full, tile.row, k", ["elements are wrong", "map"];
    tile_of_b_shifted: ONE,
        "tile.column, tile.expert * Config::kPanels" => "tile.column + 8, tile.expert * Config::kPanels", ["elements are wrong"];
    box_of_d_beside_its_columns: NARROW_SPANS,
        "smem.d(chunk, slice_row), tile.column + chunk" => "smem.d(chunk, slice_row), tile.column + (chunk ^ 1)",
        ["elements are wrong", "was not written", "not ordered"];
    tile_stored_one_row_low: ONE,
        "void copy_slice ... tile.row + slice_row" => "tile.row + slice_row + 1",
        ["was not written", "elements are wrong"];
    tiles_skipped: ONE, "linear += step" => "linear += step + 1", ["was not written", "mbarrier", "elements are wrong"];
    band_of_the_wrong_height: ONE,
        "within % height, within / height" => "within / n_tiles, within % n_tiles + 1",
        ["was not written", "elements are wrong", "outside"];
    fragment_of_the_wrong_warp: ONE,
        "return lane % 16" => "return lane % 8", ["elements are wrong", "race", "nothing has written"];
    swizzle_of_the_wrong_bits: ONE, "(addr >> 3)" => "(addr >> 4)", ["elements are wrong", "nothing has written"];
    columns_exchanged_in_a_pair: ONE,
        "ptx::cvt_bf16x2(rD[r + 1], rD[r])" => "ptx::cvt_bf16x2(rD[r], rD[r + 1])", ["elements are wrong"];
    no_wait_before_the_tile_is_overwritten: ONE,
        "void store ... if (thread == 0) ptx::bulk_wait_group_read<0>();" => "",
        ["is not ordered after the read by the TMA store"];
    no_barrier_before_the_tile_is_overwritten: ONE, "void store ... warpgroup_sync(warpgroup);" => "", ["not ordered"];
    no_proxy_fence_before_the_store: ONE, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    no_barrier_before_the_store: ONE,
        "ptx::fence_proxy_async_shared(); ... warpgroup_sync(warpgroup);" => "",
        ["not ordered", "nothing has written", "fence.proxy"];
    store_never_committed: ONE,
        "if (thread == 0) ptx::bulk_commit_group();" => "", ["commit", "TMA store", "not ordered"];
    cta_ends_under_its_last_store: ONE,
        "store.end();" => "", ["exit"];
    math_takes_too_many_registers: ONE,
        "setmaxnreg_inc<232>" => "setmaxnreg_inc<240>", ["waits for 240 registers (7168 in the pool"];
    d_read_past_its_edge: ACCUMULATE,
        "if (!tile.has(row) || column >= params.n) continue;" => "", ["outside", "out of bounds"];
    d_added_to_the_wrong_rows: ACCUMULATE, "row0 + 8 * (i % 4 / 2)" => "row0", ["elements are wrong"];

    // The grids ahead.
    only_the_producer_waits_for_the_grids_ahead: ONE,
        "void fp8_gemm ... enter_grid();" => "if (ptx::thread_idx() >= 128 * Fp8GemmTile<Config>::kMathWarpgroups) enter_grid();",
        ["before griddepcontrol.wait: a grid ahead"];
    grids_ahead_not_awaited: TWO,
        "void fp8_gemm ... enter_grid();" => "", ["load before griddepcontrol.wait: a grid ahead"];

    // Clusters.
    release_not_sent_to_the_peer: TWO,
        "ptx::mbarrier_arrive_cluster(bar, lane)" => "ptx::mbarrier_arrive_cluster(bar, ptx::cluster_rank())",
        ["not ordered", "in flight", "empty[", "full["];
    multicast_to_one_cta_only: TWO, "0b11" => "0b01", ["bytes missing", "expect_tx", "in flight"];
    both_ctas_fetch_the_same_half: TWO, "y + box * kRows" => "y", ["elements are wrong"];
    ctas_of_a_cluster_take_the_same_tile: TWO,
        "m * Config::kCluster + ptx::cluster_rank()" => "m * Config::kCluster",
        ["is not ordered after the write by the TMA store of CTA"];
    no_barrier_at_the_end_of_a_cluster: TWO, "leave_cluster<Config>();" => "", ["exit"];
    no_release_at_the_end_of_a_cluster: TWO,
        "ptx::cluster_arrive()" => "ptx::cluster_arrive_relaxed()", ["may exit before"];
    no_wait_at_the_first_cluster_barrier: TWO,
        "void enter_cluster ... ptx::cluster_wait();" => "", ["cluster", "mbarrier", "not ordered"];
    no_wait_at_the_last_cluster_barrier: TWO, "void leave_cluster ... ptx::cluster_wait();" => "", ["exit"];
    no_fence_before_the_first_cluster_barrier: TWO, "ptx::fence_mbarrier_init();" => "", ["mbarrier.init"];
    release_of_cta_scope_only: TWO,
        "ptx::mbarrier_wait_cluster(bar, parity)" => "ptx::mbarrier_wait(bar, parity)", ["not ordered"];
}
