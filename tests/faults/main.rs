//! Faults planted in the real kernels: every one is caught, on every seed, with a message that names the cause.
//!
//! A fault is an edit of the sources. The changed kernel is compiled into an emulator of its own and run on a problem that
//! the unchanged kernel solves. What the emulator reports, or which elements are wrong, must contain one of the texts
//! given.

mod build;
#[cfg(feature = "probes")]
mod cluster;
mod kv_append;
mod merge_states;
mod mla_absorb;
mod mla_decode;
mod moe;
mod router;

use std::panic::{AssertUnwindSafe, catch_unwind};

use build::{Edit, Library};
use check::gemm::grouped::{Routing, judge, masked, operands, ragged};
use check::gemm::{GemmLayout, check_gemm, run_gemm};
use check::memory::{Guarded, Placement};
use deepseek_kernels::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, GemmInstance};
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut,
    Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::{Device, Error, F8E4M3, bf16};
use oracles::gemm::GemmClass;
use oracles::gemm::Oracle;
use oracles::quant::quantizer_rows;
use oracles::quant::{QuantizeScale, quantize_1x128, quantize_128x128};

const SEEDS: u64 = 4;

/// The problem a fault is tried on.
#[derive(Clone, Copy)]
enum Problem {
    /// The kernel `fp8_gemm_m128_n{block_n}_c{cluster}_bf16`: several ragged tiles per CTA, more K blocks than stages.
    Gemm {
        block_n: u32,
        cluster: u32,
    },
    /// The same, adding to D.
    GemmAccumulate,
    /// Segments of any length, none included; then segments that are none.
    Grouped,
    Quantize1x128,
    Quantize128x128,
    Transpose,
}

const ONE: Problem = Problem::Gemm { block_n: 128, cluster: 1 };
const TWO: Problem = Problem::Gemm { block_n: 128, cluster: 2 };
/// Two scales of B a tile, and one K block in flight.
const WIDE: Problem = Problem::Gemm { block_n: 192, cluster: 1 };

impl Problem {
    fn kernel(self) -> String {
        match self {
            Self::Gemm { block_n, cluster } => gemm_instance(block_n, cluster).name(),
            Self::GemmAccumulate => gemm_instance(128, 1).name(),
            Self::Grouped => grouped_instance().name(),
            Self::Quantize1x128 => "quantize_1x128".to_owned(),
            Self::Quantize128x128 => "quantize_128x128".to_owned(),
            Self::Transpose => "transpose_scales".to_owned(),
        }
    }

    /// Runs and judges; panics with the report, or with the first wrong element.
    fn run(self, device: &Device) {
        match self {
            Self::Gemm { block_n, cluster } => gemm(device, gemm_instance(block_n, cluster), false),
            Self::GemmAccumulate => gemm(device, gemm_instance(128, 1), true),
            Self::Grouped => grouped(device),
            Self::Quantize1x128 => quantize_rows(device),
            Self::Quantize128x128 => quantize_blocks(device),
            Self::Transpose => transpose(device),
        }
    }
}

fn gemm_instance(block_n: u32, cluster: u32) -> GemmInstance {
    let is_it =
        |i: &&GemmInstance| (i.block_m, i.block_n, i.cluster, i.output.bytes()) == (128, block_n, cluster, 2);
    *GEMM_INSTANCES.iter().find(is_it).expect("the instance")
}

fn gemm(device: &Device, instance: GemmInstance, accumulate: bool) {
    let (m, n, k) = (200, 392, 1024);
    let inputs = GemmClass::SignedIntegers.generate((m, n, k), 7).expect("inputs");
    let mut layout = GemmLayout::tight(m, n, k, 2);
    layout.d.pitch += 8;
    let before: Vec<bf16> = (0..m * n).map(|i| bf16::from_f32((i % 61) as f32)).collect();
    let before = accumulate.then_some(&before[..]);
    let d = run_gemm(device, &inputs, &layout, Some(instance), before).unwrap_or_else(|e| panic!("{e}"));
    check_gemm("d", &inputs, &[Oracle::Exact], before, &d);
}

fn grouped_instance() -> GemmInstance {
    let is_it = |i: &&GemmInstance| (i.block_m, i.block_n) == (128, 128);
    *GROUPED_GEMM_INSTANCES.iter().find(is_it).expect("the instance")
}

fn grouped(device: &Device) {
    let (n, k) = (136, 512);
    // More experts than one lane of the scans handles.
    let mut counts = vec![130, 0, 1, 64, 0, 128];
    counts.extend([2; 34]);
    for routing in [ragged(&counts, 7), masked(&counts, 140)] {
        run_grouped(device, &routing, (n, k));
        assert_eq!(device.poll_error(), Ok(()), "segments in order were reported");
    }
    let mut none = ragged(&[10, 0, 25], 0);
    none.values = vec![0, 10, -7, 300];
    run_grouped(device, &none, (n, k));
    let told = device.poll_error();
    let segments = matches!(told, Err(Error::Data(faults)) if faults.segment());
    assert!(segments, "segments out of order went unreported: {told:?}");
}

fn run_grouped(device: &Device, routing: &Routing, (n, k): (usize, usize)) {
    let inputs = operands(GemmClass::SignedIntegers, routing, n, k, 7);
    let d = check::gemm::grouped::run(device, routing, &inputs, (n, k), Some(grouped_instance()));
    judge("d", routing, &inputs, n, &[Oracle::Exact], &d.unwrap_or_else(|e| panic!("{e}")));
}

const ROWS: usize = 150;
const K: usize = 384;

/// Every other row special, the rest with an amax of its own: the formulas of a scale differ in few codes only.
fn rows_to_quantize(seed: u64) -> Vec<bf16> {
    let mut x = quantizer_rows(ROWS, K, seed);
    for (row, values) in x.chunks_mut(K).enumerate().filter(|(row, _)| row % 2 == 1) {
        values
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = bf16::from_f32((i as f32 * 0.37).sin() * (row as f32 + 0.7)));
    }
    x
}

fn quantize_rows(device: &Device) {
    let x = rows_to_quantize(5);
    for (format, model) in
        [(ScaleFormat::Fp32, QuantizeScale::Fp32), (ScaleFormat::PowerOfTwo, QuantizeScale::PowerOfTwo)]
    {
        let expected = quantize_1x128(&x, ROWS, K, K, model).expect("reference");
        let gx = Guarded::new(device, &x, ROWS, K, Placement::dense(K), bf16::NAN);
        let mut q = Guarded::unwritten(device, ROWS, K, Placement::dense(K), F8E4M3::from_bits(0xff));
        let mut sf = Guarded::unwritten(device, K / 128, ROWS, Placement::dense(ROWS), f32::NAN);
        let plan = Quantize1x128::plan(device, QuantizeSpec { rows: ROWS, k: K, format }).expect("plan");
        let view = Scales1x128Mut::<MMajor>::new(sf.slice_mut(), ROWS, K).expect("view");
        plan.run(device.stream().expect("stream"), gx.matrix(), q.matrix_mut(), view)
            .unwrap_or_else(|e| panic!("{e}"));
        compare(&expected.q, &q.into_checked(|c| c.to_bits()), &expected.sf, &sf.into_checked(f32::to_bits));
        assert!(device.poll_error().is_err(), "Inf and NaN went unreported");
    }
}

fn quantize_blocks(device: &Device) {
    let x = rows_to_quantize(6);
    let expected = quantize_128x128(&x, ROWS, K, K, QuantizeScale::Fp32).expect("reference");
    let gx = Guarded::new(device, &x, ROWS, K, Placement::dense(K), bf16::NAN);
    let mut q = Guarded::unwritten(device, ROWS, K, Placement::dense(K), F8E4M3::from_bits(0xff));
    let mut sf = Guarded::unwritten(device, 2, K / 128, Placement::dense(K / 128), f32::NAN);
    let spec = QuantizeSpec { rows: ROWS, k: K, format: ScaleFormat::Fp32 };
    let plan = Quantize128x128::plan(device, spec).expect("plan");
    let view = Scales128x128Mut::new(sf.slice_mut(), ROWS, K).expect("view");
    plan.run(device.stream().expect("stream"), gx.matrix(), q.matrix_mut(), view)
        .unwrap_or_else(|e| panic!("{e}"));
    compare(&expected.q, &q.into_checked(|c| c.to_bits()), &expected.sf, &sf.into_checked(f32::to_bits));
    assert!(device.poll_error().is_err(), "Inf and NaN went unreported");
}

fn compare(q: &[F8E4M3], got_q: &[F8E4M3], sf: &[f32], got_sf: &[f32]) {
    let wrong = sf.iter().zip(got_sf).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(wrong, 0, "wrong scales");
    let wrong = q.iter().zip(got_q).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(wrong, 0, "wrong codes");
}

fn transpose(device: &Device) {
    let (m, k_blocks) = (70, 40);
    let data: Vec<f32> = (0..m * k_blocks).map(|i| i as f32).collect();
    let sf = Guarded::new(device, &data, m, k_blocks, Placement::dense(k_blocks), f32::NAN);
    let mut out = Guarded::unwritten(device, k_blocks, m, Placement::dense(m + 2), f32::NAN);
    let plan = TransposeScales::plan(device, m, 128 * k_blocks).expect("plan");
    let source = Scales1x128::<RowMajor>::new(sf.slice(), m, 128 * k_blocks).expect("view");
    let target =
        Scales1x128Mut::<MMajor>::with_pitch(out.slice_mut(), m, 128 * k_blocks, m + 2).expect("view");
    plan.run(device.stream().expect("stream"), source, target).unwrap_or_else(|e| panic!("{e}"));
    let got = out.into_checked(f32::to_bits);
    let wrong = (0..m * k_blocks).filter(|i| got[i % k_blocks * m + i / k_blocks] != data[*i]).count();
    assert_eq!(wrong, 0, "wrong scales");
}

/// Plants the fault, runs every seed, and demands one of the causes in every message.
fn caught(problem: Problem, edits: &[Edit], causes: &[&str]) {
    let library = Library::with(&problem.kernel(), edits);
    caught_in(&library, &|device| problem.run(device), causes);
}

fn caught_in(library: &Library, run: &dyn Fn(&Device), causes: &[&str]) {
    for seed in 0..SEEDS {
        let device = library.device(seed);
        let result = catch_unwind(AssertUnwindSafe(|| run(&device)));
        let Err(panic) = result else { panic!("seed {seed}: the fault went unnoticed") };
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned())).unwrap_or_default();
        assert!(
            causes.iter().any(|cause| text.contains(cause)),
            "seed {seed}: expected one of {causes:?} in: {text}"
        );
        println!("seed {seed}: {text}");
    }
}

/// The unchanged sources, through the same build: nothing is found.
#[test]
fn no_fault() {
    for problem in [
        ONE,
        TWO,
        WIDE,
        Problem::GemmAccumulate,
        Problem::Grouped,
        Problem::Quantize1x128,
        Problem::Quantize128x128,
        Problem::Transpose,
    ] {
        let library = Library::with(&problem.kernel(), &[]);
        for seed in 0..SEEDS {
            problem.run(&library.device(seed));
        }
    }
}

const GEMM: &str = "gemm/fp8_gemm.cuh";
const SYNC: &str = "hopper/cta/cta_sync.cuh";
const TILE: &str = "gemm/fp8_gemm_tile.cuh";
const STORE: &str = "gemm/fp8_gemm_store.cuh";

macro_rules! faults {
    ($($name:ident: $problem:expr, $file:expr, $from:literal => $to:literal, [$($cause:literal),+];)*) => {$(
        #[test]
        fn $name() {
            caught($problem, &[Edit { file: $file, from: $from, to: $to }], &[$($cause),+]);
        }
    )*};
}

// The ring: waits, arrivals, bytes, phases.
faults! {
    consumer_skips_the_full_wait: ONE, GEMM,
        "ptx::mbarrier_wait(smem.full(ahead.stage), ahead.phase);" => "", ["TMA load in flight", "nothing has written", "not ordered"];
    producer_skips_the_empty_wait: ONE, GEMM,
        "await_release<Config>(smem.empty(ring.stage), ring.phase ^ 1);" => "", ["full[0]", "in flight"];
    empty_wait_starts_in_the_wrong_phase: ONE, GEMM,
        "smem.empty(ring.stage), ring.phase ^ 1)" => "smem.empty(ring.stage), ring.phase)", ["waits for empty[0]"];
    full_wait_starts_in_the_wrong_phase: ONE, GEMM,
        "smem.full(ahead.stage), ahead.phase)" => "smem.full(ahead.stage), ahead.phase ^ 1)",
        ["TMA load in flight", "nothing has written", "not ordered"];
    phase_never_flips: ONE, "hopper/tile/ring.h", "phase ^= 1;" => "", ["full[0]", "empty[0]", "in flight"];
    ring_one_stage_too_long: ONE, "hopper/tile/ring.h", "++stage == Stages" => "++stage == Stages + 1", ["mbarrier", "out of bounds"];
    expect_tx_too_small: ONE, GEMM,
        "Tile::kABytes + Tile::kBBytes + Tile::kSfaBytes)" => "Tile::kABytes + Tile::kBBytes)", ["expect_tx", "in flight"];
    expect_tx_too_large: ONE, GEMM,
        "Tile::kABytes + Tile::kBBytes + Tile::kSfaBytes)" => "Tile::kABytes + Tile::kBBytes + Tile::kSfaBytes + 16)",
        ["16 bytes missing"];
    load_of_a_missing: ONE, GEMM,
        "ptx::tma_load_2d(params.map_a, smem.a(stage), full, k, tile.row);" => "", ["bytes missing"];
    load_of_scales_missing: ONE, GEMM,
        "ptx::tma_load_2d(params.map_sfa, smem.sfa(stage), full, tile.row, g);" => "", ["bytes missing"];
    stage_released_before_its_products: ONE, GEMM,
        "ptx::wgmma_wait_group<Pending>(rPartial);\n  release();" => "release();\n  ptx::wgmma_wait_group<Pending>(rPartial);",
        ["empty[", "not ordered", "in flight"];
    stage_never_released: ONE, SYNC,
        "if (lane == 0) ptx::mbarrier_arrive(bar);" => "", ["waits for empty["];
    no_syncwarp_before_the_release: ONE, SYNC,
        "ptx::syncwarp();  // the other lanes'" => "//", ["not ordered after the read"];
    too_few_arrivals_expected: ONE, TILE,
        "kCluster * kMathWarpgroups * 4;" => "kCluster * kMathWarpgroups * 4 - 1;", ["empty[", "not ordered", "in flight"];
    two_producers_expected: ONE, GEMM,
        "ptx::mbarrier_init(smem.full(stage), 1);" => "ptx::mbarrier_init(smem.full(stage), 2);", ["waits for full[0]"];
    barrier_never_initialised: ONE, GEMM,
        "ptx::mbarrier_init(smem.full(stage), 1);" => "", ["mbarrier"];
    no_fence_after_mbarrier_init: ONE, GEMM, "ptx::fence_mbarrier_init();" => "", ["fence.mbarrier_init"];
    no_barrier_after_mbarrier_init: ONE, GEMM,
        "  enter_cluster<Config>();\n  run_roles" => "  run_roles", ["mbarrier.init", "not ordered"];
}

// Products and promotion.
faults! {
    no_wgmma_fence: ONE, GEMM, "ptx::wgmma_fence();" => "", ["wgmma.fence"];
    no_wgmma_commit: ONE, GEMM, "ptx::wgmma_commit_group();" => "", ["wgmma", "in flight"];
    no_wgmma_wait: ONE, GEMM,
        "ptx::wgmma_wait_group<Pending>(rPartial);" => "ptx::wgmma_wait_group<Pending + 1>(rPartial);", ["wgmma", "not ordered"];
    wrong_advance_along_k: ONE, GEMM,
        "descriptor_advance(desc_b, k)" => "descriptor_advance(desc_b, k / 2)", ["elements are wrong"];
    partial_sum_never_cleared: ONE, GEMM, ", k != 0);" => ", true);", ["elements are wrong", "uninitialised", "wgmma"];
    partial_sum_cleared_too_often: ONE, GEMM, ", k != 0);" => ", false);", ["elements are wrong"];
    last_k32_dropped: ONE, GEMM,
        "k < Config::kBlockK; k += Config::kWgmmaK" => "k < Config::kBlockK - 32; k += Config::kWgmmaK", ["elements are wrong"];
    descriptor_without_swizzle: ONE, "hopper/tile/descriptor.h",
        "kSwizzle128 = 1;" => "kSwizzle128 = 0;", ["elements are wrong", "out of bounds", "nothing has written"];
    descriptor_with_a_wrong_group_stride: ONE, "hopper/tile/descriptor.h",
        "kGroupBytes = 8 * 128;" => "kGroupBytes = 8 * 64;", ["elements are wrong", "swizzle"];
    no_promotion: ONE, GEMM,
        "ptx::fma_rn(scale[i * kSpans / Registers][i % 4 / 2], rPartial[i], rD[i])" => "rPartial[i]", ["elements are wrong"];
    scales_of_the_other_row: ONE, GEMM, "[i % 4 / 2], rPartial" => "[1 - i % 4 / 2], rPartial", ["elements are wrong"];
    scale_row_shifted: ONE, GEMM,
        "(slice_row + fragment_row(ptx::thread_idx() % 128)) * sizeof(float)"
            => "(slice_row + fragment_row(ptx::thread_idx() % 128) + 1) * sizeof(float)",
        ["elements are wrong", "nothing has written", "in flight", "race", "part of an mbarrier"];
    scale_of_b_shifted: ONE, GEMM, "even = scales.load(0), odd" => "even = scales.load(1), odd", ["elements are wrong", "sfb"];
    scale_of_b_of_the_first_blocks: ONE, GEMM, "    scales.gSfb += 2;" => "", ["elements are wrong"];
    scale_of_b_past_the_last_block: WIDE, GEMM, "if (blocks > 1) sfb = scales" => "sfb = scales", ["global load of 4 bytes"];
    scale_of_b_a_block_early: ONE, GEMM,
        "even, release);\n    even = scales.load(0);" => "(even = scales.load(0)), release);", ["elements are wrong"];
    scale_of_b_of_another_tile: ONE, GEMM, "tile.column / Config::kScaleColumns;" => "tile.column / 256;", ["elements are wrong"];
    scale_of_the_next_columns_missing: WIDE, GEMM, "? last : first, last}" => "? last : first, first}", ["elements are wrong"];
    scale_of_the_middle_columns: WIDE, GEMM, "middle_is_next ? last : first" => "first", ["elements are wrong"];
    scale_of_columns_past_the_last: WIDE, GEMM, "< params.n ? params.sfb_pitch : 0" => "< params.n + 128 ? params.sfb_pitch : 0",
        ["global load of 4 bytes"];
    products_of_the_block_before: WIDE, GEMM,
        "ptx::mbarrier_wait(smem.full(ring.stage), ring.phase);" => "", ["TMA load in flight", "nothing has written", "not ordered"];
    k_blocks_one_short: ONE, GEMM,
        "accumulate_two<Config>(rD[0], smem, ring, first_row, params.k_blocks," => "accumulate_two<Config>(rD[0], smem, ring, first_row, params.k_blocks - 1,",
        ["exits while a TMA load counted on full[0] is in flight", "elements are wrong"];
}

// Tiles and the way to D.
faults! {
    coordinates_swapped: ONE, GEMM,
        "smem.a(stage), full, k, tile.row);" => "smem.a(stage), full, tile.row, k);", ["elements are wrong", "map"];
    tile_of_b_shifted: ONE, GEMM, "full, k, tile.column, tile.expert);" => "full, k, tile.column + 8, tile.expert);", ["elements are wrong"];
    tile_stored_one_row_low: ONE, STORE,
        "tile.row + slice_row);" => "tile.row + slice_row + 1);",
        ["was not written", "elements are wrong"];
    tiles_skipped: ONE, GEMM, "linear += step;" => "linear += step + 1;", ["was not written", "mbarrier", "elements are wrong"];
    band_of_the_wrong_height: ONE, "hopper/tile/order.h",
        "within % height, within / height" => "within / n_tiles, within % n_tiles + 1", ["was not written", "elements are wrong", "outside"];
    fragment_of_the_wrong_warp: ONE, "hopper/tile/fragment.h", "lane % 16; }" => "lane % 8; }", ["elements are wrong", "race", "nothing has written"];
    swizzle_of_the_wrong_bits: ONE, "hopper/tile/swizzle.h", "(addr >> 3)" => "(addr >> 4)", ["elements are wrong", "nothing has written"];
    columns_exchanged_in_a_pair: ONE, STORE,
        "ptx::cvt_bf16x2(rD[r + 1], rD[r])," => "ptx::cvt_bf16x2(rD[r], rD[r + 1]),", ["elements are wrong"];
    no_wait_before_the_tile_is_overwritten: ONE, STORE,
        "if (thread == 0) ptx::bulk_wait_group_read<0>();  // the previous" => "//", ["is not ordered after the read by the TMA store"];
    no_barrier_before_the_tile_is_overwritten: ONE, STORE,
        "// the previous tile's copy has left sD\n  warpgroup_sync(warpgroup);" => "", ["not ordered"];
    no_proxy_fence_before_the_store: ONE, STORE, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    no_barrier_before_the_store: ONE, STORE,
        "  warpgroup_sync(warpgroup);\n#pragma unroll\n  for (int slice = 0; slice < Tile::kSlices; ++slice) {\n    const uint32_t slice_row = first_row + slice * Config::kWgmmaM;\n    const uint32_t row" => "  for (int slice = 0; slice < Tile::kSlices; ++slice) {\n    const uint32_t slice_row = first_row + slice * Config::kWgmmaM;\n    const uint32_t row", ["not ordered", "nothing has written", "fence.proxy"];
    store_never_committed: ONE, STORE, "if (thread == 0) ptx::bulk_commit_group();" => "", ["commit", "TMA store", "not ordered"];
    cta_ends_under_its_last_store: ONE, GEMM,
        "if (thread == 0) ptx::bulk_wait_group_read<0>();  // shared" => "//", ["exit"];
    math_takes_too_many_registers: ONE, GEMM, "setmaxnreg_inc<232>" => "setmaxnreg_inc<240>", ["waits for 240 registers (7168 in the pool"];
    d_read_past_its_edge: Problem::GemmAccumulate, STORE,
        "if (!tile.has(row) || column >= params.n) continue;\n    const" => "const", ["outside", "out of bounds"];
    d_added_to_the_wrong_rows: Problem::GemmAccumulate, STORE,
        "const uint64_t row = row0 + 8 * (i % 4 / 2);" => "const uint64_t row = row0;", ["elements are wrong"];
}

// Clusters.
faults! {
    release_not_sent_to_the_peer: TWO, SYNC,
        "ptx::mbarrier_arrive_cluster(bar, lane);" => "ptx::mbarrier_arrive_cluster(bar, ptx::cluster_rank());",
        ["not ordered", "in flight", "empty[", "full["];
    multicast_to_one_cta_only: TWO, GEMM, "0b11);" => "0b01);", ["bytes missing", "expect_tx", "in flight"];
    both_ctas_fetch_the_same_half: TWO, GEMM,
        "tile.column + rank * kHalfRows, tile.expert" => "tile.column, tile.expert", ["elements are wrong"];
    ctas_of_a_cluster_take_the_same_tile: TWO, GEMM,
        "at.m * Config::kCluster + ptx::cluster_rank()" => "at.m * Config::kCluster", ["is not ordered after the write by the TMA store of CTA"];
    no_barrier_at_the_end_of_a_cluster: TWO, GEMM,
        "  leave_cluster<Config>();" => "", ["exit"];
    no_release_at_the_end_of_a_cluster: TWO, SYNC,
        "    ptx::cluster_arrive();" => "    ptx::cluster_arrive_relaxed();", ["may exit before"];
    no_wait_at_the_first_cluster_barrier: TWO, SYNC,
        "ptx::cluster_arrive_relaxed();\n    ptx::cluster_wait();" => "ptx::cluster_arrive_relaxed();", ["cluster", "mbarrier", "not ordered"];
    no_wait_at_the_last_cluster_barrier: TWO, SYNC,
        "ptx::cluster_arrive();\n    ptx::cluster_wait();" => "ptx::cluster_arrive();", ["exit"];
    no_fence_before_the_first_cluster_barrier: TWO, GEMM, "ptx::fence_mbarrier_init();" => "", ["mbarrier.init"];
    release_of_cta_scope_only: TWO, SYNC, "ptx::mbarrier_wait_cluster(bar, parity);" => "ptx::mbarrier_wait(bar, parity);", ["not ordered"];
}

const GROUPED: &str = "gemm/grouped_fp8_gemm.cuh";

// Experts.
faults! {
    weights_of_the_first_expert: Problem::Grouped, GEMM,
        "full, k, tile.column, tile.expert);" => "full, k, tile.column, 0);", ["elements are wrong"];
    scales_of_the_first_expert: Problem::Grouped, GEMM,
        "tile.expert * params.sfb_expert_stride" => "0 * params.sfb_expert_stride", ["elements are wrong"];
    tile_spans_two_experts: Problem::Grouped, STORE,
        "row + Config::kWgmmaM <= tile.row_end" => "row < tile.row_end",
        ["elements are wrong", "is nobody's and was written", "not ordered after the write"];
    rows_of_the_expert_before: Problem::Grouped, STORE,
        "row >= tile.row_begin && row + Config" => "row + Config",
        ["elements are wrong", "is nobody's and was written", "not ordered after the write"];
    tile_starts_where_tma_cannot: Problem::Grouped, GROUPED,
        "{first + at.m" => "{row + at.m", ["no multiple of 16 bytes"];
    tiles_counted_from_the_segment: Problem::Grouped, "gemm/segments.h",
        "(row_end - first_fetched(row) + block_m - 1)" => "(row_end - row + block_m - 1)", ["was not written", "elements are wrong"];
    last_row_of_a_segment_lost: Problem::Grouped, STORE,
        "if (!tile.has(row) || tile.column" => "if (!tile.has(row) || row + 1 == tile.row_end || tile.column",
        ["elements are wrong"];
    one_row_too_many: Problem::Grouped, STORE,
        "if (!tile.has(row) || tile.column" => "if ((!tile.has(row) && row != tile.row_end) || tile.column",
        ["elements are wrong", "is nobody's and was written", "not ordered after the write"];
    columns_past_the_end: Problem::Grouped, STORE,
        "if (!tile.has(row) || tile.column + column >= params.n) continue;" => "if (!tile.has(row)) continue;",
        ["was written", "outside", "not ordered after the write"];
    empty_expert_takes_a_tile: Problem::Grouped, GROUPED,
        "<= linear;" => "< linear;", ["elements are wrong", "deadlock"];
    segment_table_before_it_is_written: Problem::Grouped, GROUPED,
        "  ptx::syncthreads();\n  run_roles" => "  run_roles", ["nothing has written", "mbarrier", "not ordered"];
    segments_past_the_rows: Problem::Grouped, "gemm/segments.h",
        "end < row ? row : end < limit ? end : limit;" => "end < row ? row : end;", ["outside", "around the matrix was written"];
    bad_segments_unreported: Problem::Grouped, GROUPED,
        "if (clamped) report_fault" => "if (false) report_fault", ["went unreported"];
    scan_without_its_last_step: Problem::Grouped, "hopper/cta/warp_scan.cuh",
        "lane >= distance" => "lane > distance", ["elements are wrong", "not ordered"];
    masked_segments_packed: Problem::Grouped, "gemm/segments.h",
        "const uint32_t row = expert * max_rows;" => "const uint32_t row = expert * (max_rows - 1);",
        ["elements are wrong", "was written", "not ordered"];
    tiles_of_the_last_expert_only: Problem::Grouped, GROUPED,
        "uint32_t next = exclusive_scan(own," => "uint32_t next = exclusive_scan(own / 2,", ["elements are wrong", "not ordered"];
}

// Quantisers and scales.
faults! {
    amax_over_half_the_lanes: Problem::Quantize1x128, "quant/quantize_row.cuh",
        "mask = kLanesPerRow / 2;" => "mask = kLanesPerRow / 4;", ["wrong scales"];
    amax_over_two_rows: Problem::Quantize1x128, "quant/quantize_row.cuh",
        "mask = kLanesPerRow / 2;" => "mask = kLanesPerRow;", ["wrong scales"];
    blocks_past_the_end: Problem::Quantize1x128, "quant/quantize_1x128.cuh", "if (!exists) return;" => "", ["not ordered", "outside", "wrong"];
    no_floor_under_amax: Problem::Quantize1x128, "quant/scale.h",
        "amax < kAmaxFloor ? kAmaxFloor : amax" => "amax", ["wrong scales"];
    amax_over_infinities: Problem::Quantize1x128, "quant/scale.h",
        "magnitude < 0x7f800000u ?" => "magnitude <= 0x7f800000u ?", ["wrong scales"];
    power_of_two_rounded_down: Problem::Quantize1x128, "quant/scale.h", "+ 0x007fffffu" => "", ["wrong scales"];
    multiplier_of_the_wrong_formula: Problem::Quantize1x128, "quant/scale.h",
        "kE4m3Max / floored}" => "1.0f / scale}", ["wrong codes"];
    codes_exchanged_in_a_pair: Problem::Quantize1x128, "quant/quantize_row.cuh",
        "ptx::cvt_e4m3x2(x[1] * multiplier, x[0] * multiplier)" => "ptx::cvt_e4m3x2(x[0] * multiplier, x[1] * multiplier)",
        ["wrong codes"];
    infinities_unreported: Problem::Quantize1x128, "quant/quantize_row.cuh",
        "if (!finite) report_fault" => "if (false) report_fault", ["unreported"];
    report_by_an_ordinary_store: Problem::Quantize1x128, "hopper/cta/report_fault.cuh",
        "ptx::st_relaxed_sys_u32(" => "ptx::stg_u32(", ["host memory that the host uses meanwhile"];
    report_in_the_word_of_another_fault: Problem::Grouped, "hopper/cta/report_fault.cuh",
        "error_words + fault" => "error_words", ["went unreported"];
    rows_past_the_end: Problem::Quantize128x128, "quant/quantize_128x128.cuh",
        "if (row < params.n) x[i]" => "x[i]", ["outside", "wrong scales", "read-only load of q"];
    no_barrier_before_amax_is_shared: Problem::Quantize128x128, "quant/quantize_128x128.cuh",
        "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    amax_of_one_warp: Problem::Quantize128x128, "quant/quantize_128x128.cuh",
        "largest = max_of(largest, ptx::lds_f32(smem + warp * sizeof(float)));" => "largest = ptx::lds_f32(smem);", ["wrong scales"];
    no_barrier_before_the_transposed_read: Problem::Transpose, "quant/transpose_scales.cuh",
        "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    transposed_tile_with_a_wrong_pitch: Problem::Transpose, "quant/transpose_scales.cuh",
        "(x * transpose_scales_pitch + i)" => "(x * transpose_scales_tile + i)", ["wrong scales", "nothing has written"];
}
