//! Faults in MLA's absorbed projections.

use check::case::boxed;
use check::mla::absorb::AbsorbCase;
use oracles::mla::Side;

use crate::Trial;

pub const TRIALS: &[Trial] = &[QUERY, OUTPUT];

/// A ragged tile, several heads.
const QUERY: Trial = Trial::Cases(|| boxed([AbsorbCase::new(Side::Query, 70, 2)]));
/// The ring goes round twice.
const OUTPUT: Trial = Trial::Cases(|| boxed([AbsorbCase::new(Side::Output, 70, 2)]));

// The N-major operand.
faults! {
    chunks_too_close: QUERY,
        "descriptor_mn_major_128b(sB, Config::kBoxBytes)" => "descriptor_mn_major_128b(sB, Config::kBoxBytes / 2)",
        ["elements are wrong"];
    descriptor_of_the_other_major: QUERY,
        "descriptor_mn_major_128b(sB, Config::kBoxBytes)" => "descriptor_k_major_128b(sB)", ["leading offset 0"];
    advance_of_the_other_major: QUERY,
        "descriptor_advance(desc_b, k * 128)" => "descriptor_advance(desc_b, k * 2)", ["elements are wrong"];
    product_of_the_other_major: QUERY,
        "ptx::wgmma_k16_bf16_mn" => "ptx::wgmma_k16_bf16", ["elements are wrong", "not ordered", "in flight"];
    transposed_instead: OUTPUT, "ptx::wgmma_k16_bf16" => "ptx::wgmma_k16_bf16_mn", ["leading offset 0"];
    chunk_distance_in_the_wrong_bits: QUERY,
        "(chunk_bytes >> 4) << 16" => "(chunk_bytes >> 4) << 18",
        ["outside", "nothing has written", "not ordered", "in flight"];
}

// What is loaded.
faults! {
    rows_of_the_values: QUERY, "Config::kFirstRow + k" => "MLA_NOPE + k", ["elements are wrong"];
    rows_of_the_keys: OUTPUT, "Config::kFirstRow + n" => "n", ["elements are wrong"];
    weights_of_the_first_head: OUTPUT,
        "Config::kFirstRow + n, tile.head" => "Config::kFirstRow + n, 0", ["elements are wrong"];
    columns_of_the_first_tile: QUERY, "rest % kNTiles * Config::kBlockN" => "0", ["not ordered", "not written"];
    tiles_along_n_counted_wrong: QUERY, "rest / kNTiles" => "rest", ["not written"];
    expect_tx_without_a: OUTPUT,
        "Config::kBoxBytes + HeadGemmSmem<Config>" => "HeadGemmSmem<Config>", ["expect_tx", "in flight"];
    no_wait_for_the_stage: OUTPUT,
        "smem.pipeline().await_full(ring);" => "",
        ["in flight", "nothing has written", "not ordered"];
    no_wait_for_an_empty_stage: OUTPUT,
        "smem.pipeline().await_empty(ring);" => "", ["full[0]", "in flight"];
    stage_never_released: OUTPUT,
        "smem.pipeline().release(ring);" => "",
        ["waits for empty["];
}

// The sum and its way out.
faults! {
    every_stage_starts_anew: OUTPUT,
        "smem.b(ring.stage), k != 0" => "smem.b(ring.stage), false", ["elements are wrong"];
    sum_never_cleared: OUTPUT,
        "smem.b(ring.stage), k != 0" => "smem.b(ring.stage), true", ["elements are wrong", "uninitialised", "wgmma"];
    products_not_awaited: OUTPUT,
        "ptx::wgmma_wait_group<0>(rD)" => "ptx::wgmma_wait_group<1>(rD)", ["wgmma", "not ordered"];
    columns_exchanged: QUERY,
        "ptx::cvt_bf16x2(rD[r + 1], rD[r])" => "ptx::cvt_bf16x2(rD[r], rD[r + 1])", ["elements are wrong"];
    stored_without_swizzle: QUERY, "swizzle<Span>(sD)" => "sD", ["elements are wrong"];
    no_fence_before_the_copy: OUTPUT, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    no_barrier_before_the_copy: OUTPUT,
        "ptx::fence_proxy_async_shared(); ... warpgroup_sync(warpgroup);" => "",
        ["not ordered", "nothing has written", "fence.proxy.async"];
    copy_not_awaited: OUTPUT, "ptx::bulk_wait_group_read<0>();" => "", ["exit", "bulk"];
}
