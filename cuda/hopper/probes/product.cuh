// Everything at once, as small as it gets: D <- A . B^T by a pair of CTAs, which have 64 rows of A each and share B. In
// each a producer thread keeps a ring full by TMA, a warpgroup multiplies stage after stage, and TMA stores the result.
//
//   maps       A BF16 [128, k], box [64, 64] · B BF16 [1, 64, k], box [1, 32, 64] · D BF16 [128, 64], box [64, 64];
//              128-byte swizzle
//   arguments  k / 64
//   store      D
#pragma once
#include <cstddef>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/cta/pipeline.cuh"
#include "hopper/probes/params.h"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/ring.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

struct ProbeProductConfig {
  static constexpr int kStages = 2, kCluster = 2;
  static constexpr int kRows = 64;       // of A and of B, in a CTA
  static constexpr int kRowBytes = 128;  // 64 of K: a swizzle row, four wgmma of K = 16
  static constexpr int kTileBytes = kRows * kRowBytes;
  static constexpr int kWarps = 4;  // that multiply
};

struct ProbeProductStorage {
  using Config = ProbeProductConfig;
  alignas(1024) uint8_t a[Config::kStages][Config::kTileBytes];  // BF16 [64 rows, 64 of K], swizzled
  alignas(1024) uint8_t b[Config::kStages][Config::kTileBytes];  // BF16 [64 columns, 64 of K], swizzled
  alignas(1024) uint8_t d[Config::kTileBytes];                   // BF16 [64 rows, 64 columns], swizzled
  PipelineStorage<Config::kStages> pipeline;
};

// Shared addresses of it.
struct ProbeProductSmem {
  using Config = ProbeProductConfig;
  using Storage = ProbeProductStorage;
  uint32_t base;

  PTX_DEVICE uint32_t a(uint32_t stage) const { return base + offsetof(Storage, a) + stage * Config::kTileBytes; }
  PTX_DEVICE uint32_t b(uint32_t stage) const { return base + offsetof(Storage, b) + stage * Config::kTileBytes; }
  PTX_DEVICE uint32_t d() const { return base + offsetof(Storage, d); }
  PTX_DEVICE Pipeline<Config::kStages, Config::kCluster> pipeline() const {
    return {base + static_cast<uint32_t>(offsetof(Storage, pipeline))};
  }
};

// The producer thread. Both CTAs fill a half of either's B: a stage is free when the warps of both have released it.
PTX_DEVICE void probe_produce(const ProbeParams& params, ProbeProductSmem smem) {
  using Config = ProbeProductConfig;
  Ring<Config::kStages> ring;
#pragma unroll 1
  for (uint32_t step = 0; step < params.arguments[0]; ++step, ring.advance()) {
    const uint32_t full = smem.pipeline().full(ring.stage), k = 64 * step;
    smem.pipeline().await_empty(ring);
    ptx::mbarrier_arrive_expect_tx(full, 2 * Config::kTileBytes);
    ptx::tma_load_2d(params.map_load[0], smem.a(ring.stage), full, k, Config::kRows * ptx::cta_idx());
    load_together<Config::kCluster, Config::kRows, Config::kTileBytes>(params.map_load[1], smem.b(ring.stage), full, k,
                                                                       0, 0);
  }
}

// The warpgroup that multiplies: rD += sA . sB^T for every stage, then D <- rD.
PTX_DEVICE void probe_consume(const ProbeParams& params, ProbeProductSmem smem) {
  using Config = ProbeProductConfig;
  Ring<Config::kStages> ring;
  float rD[Config::kRows / 2];
#pragma unroll 1
  for (uint32_t step = 0; step < params.arguments[0]; ++step, ring.advance()) {
    smem.pipeline().await_full(ring);
    const uint64_t desc_a = descriptor_k_major_128b(smem.a(ring.stage));
    const uint64_t desc_b = descriptor_k_major_128b(smem.b(ring.stage));
    ptx::wgmma_fence();
#pragma unroll
    for (int byte = 0; byte < Config::kRowBytes; byte += 32) {
      ptx::wgmma_k16_bf16(rD, descriptor_advance(desc_a, byte), descriptor_advance(desc_b, byte), step + byte != 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>(rD);
    smem.pipeline().release(ring);
  }
  store_fragment_bf16<Config::kRowBytes>(
      ptx::thread_idx(), rD, [&](uint32_t, uint32_t row) { return smem.d() + row * Config::kRowBytes; });
  warpgroup_fence_async(0);
  if (ptx::thread_idx() != 0) return;
  ptx::tma_store_2d(params.map_store, smem.d(), 0, Config::kRows * ptx::cta_idx());
  ptx::bulk_commit_group();
  ptx::bulk_wait_group_read<0>();  // shared memory must outlive the copy out of it
}

PTX_DEVICE void probe_product_kernel(const ProbeParams& params) {
  using Config = ProbeProductConfig;
  const ProbeProductSmem smem{ptx::smem_base()};
  if (ptx::thread_idx() == 0) {
    smem.pipeline().init(1, Config::kCluster * Config::kWarps);
    ptx::fence_mbarrier_init();
  }
  enter_cluster<Config>();
  enter_grid();
  if (ptx::warp_uniform(ptx::thread_idx() / 32) < Config::kWarps) {
    probe_consume(params, smem);
  } else {
    if (ptx::elect_one()) probe_produce(params, smem);
    ptx::syncwarp();
  }
  leave_cluster<Config>();
}
