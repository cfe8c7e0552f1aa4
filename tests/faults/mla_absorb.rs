//! Faults in MLA's absorbed projections.

use deepseek_kernels::Device;
use oracles::mla::Side;

use super::build::{Edit, Library};
use super::{SEEDS, caught_in};
use check::mla::absorb::{Absorption, Oracle};

const KERNELS: [&str; 2] = ["mla_absorb_query", "mla_absorb_output"];

/// A ragged tile, several heads; the ring of the second goes round twice.
fn run(side: Side, device: &Device) {
    Absorption::integers(side, 70, 2).check(device, Oracle::Exact);
}

#[test]
fn no_fault() {
    let library = Library::of(&KERNELS, &[]);
    for seed in 0..SEEDS {
        for side in [Side::Query, Side::Output] {
            run(side, &library.device(seed));
        }
    }
}

macro_rules! faults {
    ($($name:ident: $side:expr, $file:expr, $from:literal => $to:literal, [$($cause:literal),+];)*) => {$(
        #[test]
        fn $name() {
            let library = Library::of(&KERNELS, &[Edit { file: $file, from: $from, to: $to }]);
            caught_in(&library, &|device| run($side, device), &[$($cause),+]);
        }
    )*};
}

const GEMM: &str = "mla/head_gemm.cuh";

// The N-major operand.
faults! {
    chunks_too_close: Side::Query, GEMM,
        "descriptor_mn_major_128b(sB, Config::kBoxBytes)" => "descriptor_mn_major_128b(sB, Config::kBoxBytes / 2)", ["elements are wrong"];
    descriptor_of_the_other_major: Side::Query, GEMM,
        "descriptor_mn_major_128b(sB, Config::kBoxBytes)" => "descriptor_k_major_128b(sB)", ["leading offset 0"];
    advance_of_the_other_major: Side::Query, GEMM,
        "descriptor_advance(desc_b, k * 128)" => "descriptor_advance(desc_b, k * 2)", ["elements are wrong"];
    product_of_the_other_major: Side::Query, GEMM,
        "ptx::wgmma_k16_bf16_mn(" => "ptx::wgmma_k16_bf16(", ["elements are wrong", "not ordered", "in flight"];
    transposed_instead: Side::Output, GEMM,
        "ptx::wgmma_k16_bf16(" => "ptx::wgmma_k16_bf16_mn(", ["leading offset 0"];
    chunk_distance_in_the_wrong_bits: Side::Query, "hopper/tile/descriptor.h",
        "(chunk_bytes >> 4) << 16" => "(chunk_bytes >> 4) << 18", ["outside", "nothing has written", "not ordered", "in flight"];
}

// What is loaded.
faults! {
    rows_of_the_values: Side::Query, GEMM, "Config::kFirstRow + k" => "MLA_NOPE + k", ["elements are wrong"];
    rows_of_the_keys: Side::Output, GEMM, "Config::kFirstRow + n" => "n", ["elements are wrong"];
    weights_of_the_first_head: Side::Output, GEMM, "Config::kFirstRow + n, tile.head)" => "Config::kFirstRow + n, 0)", ["elements are wrong"];
    columns_of_the_first_tile: Side::Query, GEMM, "rest % kNTiles * Config::kBlockN" => "0", ["not ordered", "not written"];
    tiles_along_n_counted_wrong: Side::Query, GEMM, "rest / kNTiles" => "rest", ["not written"];
    expect_tx_without_a: Side::Output, GEMM,
        "Config::kBoxBytes + HeadGemmSmem<Config>::kBBytes)" => "HeadGemmSmem<Config>::kBBytes)", ["expect_tx", "in flight"];
    no_wait_for_the_stage: Side::Output, GEMM,
        "ptx::mbarrier_wait(smem.full(ring.stage), ring.phase);" => "", ["in flight", "nothing has written", "not ordered"];
    no_wait_for_an_empty_stage: Side::Output, GEMM,
        "ptx::mbarrier_wait(smem.empty(ring.stage), ring.phase ^ 1);" => "", ["full[0]", "in flight"];
    stage_never_released: Side::Output, GEMM,
        "if (ptx::thread_idx() % 32 == 0) ptx::mbarrier_arrive(smem.empty(ring.stage));" => "", ["waits for empty["];
}

// The sum and its way out.
faults! {
    every_stage_starts_anew: Side::Output, GEMM, "smem.b(ring.stage), k != 0);" => "smem.b(ring.stage), false);", ["elements are wrong"];
    sum_never_cleared: Side::Output, GEMM, "smem.b(ring.stage), k != 0);" => "smem.b(ring.stage), true);",
        ["elements are wrong", "uninitialised", "wgmma"];
    products_not_awaited: Side::Output, GEMM, "ptx::wgmma_wait_group<0>(rD);" => "ptx::wgmma_wait_group<1>(rD);", ["wgmma", "not ordered"];
    columns_exchanged: Side::Query, GEMM, "ptx::cvt_bf16x2(rD[r + 1], rD[r])," => "ptx::cvt_bf16x2(rD[r], rD[r + 1]),", ["elements are wrong"];
    stored_without_swizzle: Side::Query, GEMM, "ptx::stmatrix_x4(swizzle<128>(sD)," => "ptx::stmatrix_x4(sD,", ["elements are wrong"];
    no_fence_before_the_copy: Side::Output, GEMM, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    no_barrier_before_the_copy: Side::Output, GEMM,
        "ptx::named_barrier_sync<1, Config::kMathThreads>();" => "", ["not ordered", "nothing has written", "fence.proxy.async"];
    copy_not_awaited: Side::Output, GEMM, "ptx::bulk_wait_group_read<0>();" => "", ["exit", "bulk"];
}
