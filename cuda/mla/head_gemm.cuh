// One BF16 GEMM per attention head, with the head's rows for keys or for values of MLA's up-projection W.
//
//   D[t, h, n] = sum over k of  A[t, h, k] * B[h][k, n]
//
//   A BF16 [tokens, heads, K] · W BF16 [heads, rows, 512] · D BF16 [tokens, heads, N], rounded once
//   N-major: B[h] = W[h, first_row + k, n]    (a step's rows of K, columns contiguous)
//   K-major: B[h] = W[h, first_row + n, k]^T
//
// Schedule: a CTA per tile of 64 tokens x block_n columns of a head, tiles of tokens fastest, so that neighbours share W
// in L2. A producer thread fills a ring of stages of 64 along K by TMA; one warpgroup multiplies each with four wgmmas
// into one FP32 accumulator, K ascending. W arrives in boxes of 64 x 64 either way; what a box's rows are differs.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/cta/pipeline.cuh"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/order.h"
#include "hopper/tile/ring.h"
#include "mla/params.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

namespace mla {

// What every configuration shares; one derives from it and adds kMajor, and what its row of the table says: kThreads,
// kBlockN, kStages.
struct HeadGemmConfig {
  enum class Major { kK, kN };
  static constexpr int kBlockM = 64;  // tokens: one wgmma
  static constexpr int kBlockK = 64;  // a 128-byte swizzle row, four wgmma of K = 16
  static constexpr int kWgmmaK = 16;
  static constexpr int kBox = 64;     // rows and columns of a TMA box
  static constexpr int kBoxBytes = kBox * kBox * 2;
  static constexpr int kMathThreads = 128;
  static_assert(kBlockM == kBox && kBlockK == kBox, "a stage of A is one box");
};

template <class Config>
struct HeadGemmStorage {
  alignas(1024) uint8_t a[Config::kStages][Config::kBoxBytes];                                // [64 tokens, 64 of K]
  alignas(1024) uint8_t b[Config::kStages][Config::kBlockN / Config::kBox][Config::kBoxBytes];  // [64 rows of W, 64]
  alignas(1024) uint8_t d[Config::kBlockN / Config::kBox][Config::kBoxBytes];                 // [64 tokens, 64 of N]
  PipelineStorage<Config::kStages> pipeline;

  static_assert(Config::kThreads == Config::kMathThreads + 32, "a warpgroup that multiplies, and a producer's warp");
};

// Shared addresses of one CTA's storage; boxes are 128-byte swizzled.
template <class Config>
struct HeadGemmSmem {
  using Storage = HeadGemmStorage<Config>;
  static constexpr uint32_t kBBytes = sizeof(Storage::b[0]);
  uint32_t base;

  PTX_DEVICE uint32_t a(uint32_t stage) const { return base + offsetof(Storage, a) + stage * Config::kBoxBytes; }
  PTX_DEVICE uint32_t b(uint32_t stage) const { return base + offsetof(Storage, b) + stage * kBBytes; }
  PTX_DEVICE uint32_t d(uint32_t box) const { return base + offsetof(Storage, d) + box * Config::kBoxBytes; }
  PTX_DEVICE Pipeline<Config::kStages> pipeline() const {
    return {base + static_cast<uint32_t>(offsetof(Storage, pipeline))};
  }
};

struct HeadTile {
  uint32_t token, head, column;
};

template <class Config>
PTX_DEVICE HeadTile head_tile(const HeadGemmParams& params) {
  const uint32_t m_tiles = ceil_div(params.tokens, Config::kBlockM), n_tiles = ceil_div(params.n, Config::kBlockN);
  const uint32_t rest = ptx::cta_idx() / m_tiles;
  return {ptx::cta_idx() % m_tiles * Config::kBlockM, rest / n_tiles, rest % n_tiles * Config::kBlockN};
}

// ---------------------------------------------------------------------------------------------------------- load

// sA, sB <- columns [k, k + 64) of A's tile, and the same rows or columns of W.
template <class Config>
PTX_DEVICE void load_stage(const HeadGemmParams& params, HeadGemmSmem<Config> smem, uint32_t stage, HeadTile tile,
                           uint32_t k) {
  const uint32_t full = smem.pipeline().full(stage);
  ptx::mbarrier_arrive_expect_tx(full, Config::kBoxBytes + HeadGemmSmem<Config>::kBBytes);
  ptx::tma_load_3d(params.map_a, smem.a(stage), full, k, tile.head, tile.token);
#pragma unroll
  for (uint32_t box = 0; box < Config::kBlockN / Config::kBox; ++box) {
    const uint32_t sBox = smem.b(stage) + box * Config::kBoxBytes;
    const uint32_t n = tile.column + box * Config::kBox;
    if constexpr (Config::kMajor == Config::Major::kN) {
      ptx::tma_load_3d(params.map_w, sBox, full, n, params.first_row + k, tile.head);
    } else {
      ptx::tma_load_3d(params.map_w, sBox, full, k, params.first_row + n, tile.head);
    }
  }
}

// The producer thread.
template <class Config>
PTX_DEVICE void load(const HeadGemmParams& params, HeadGemmSmem<Config> smem, HeadTile tile) {
  Ring<Config::kStages> ring;
#pragma unroll 1
  for (uint32_t k = 0; k < params.k; k += Config::kBlockK, ring.advance()) {
    smem.pipeline().await_empty(ring);
    load_stage(params, smem, ring.stage, tile, k);
  }
}

// ----------------------------------------------------------------------------------------------------------- mma

// rD (+)= sA . sB over one stage; returns when the tensor core is done with it.
template <class Config>
PTX_DEVICE void mma(float (&rD)[Config::kBlockN / 2], uint32_t sA, uint32_t sB, bool keep) {
  const uint64_t desc_a = descriptor_k_major_128b(sA);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < Config::kBlockK; k += Config::kWgmmaK) {
    const uint64_t a = descriptor_advance(desc_a, k * 2);
    if constexpr (Config::kMajor == Config::Major::kN) {
      const uint64_t desc_b = descriptor_mn_major_128b(sB, Config::kBoxBytes);
      ptx::wgmma_k16_bf16_mn(rD, a, descriptor_advance(desc_b, k * 128), keep || k != 0);
    } else {
      const uint64_t desc_b = descriptor_k_major_128b(sB);
      ptx::wgmma_k16_bf16(rD, a, descriptor_advance(desc_b, k * 2), keep || k != 0);
    }
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>(rD);
}

// --------------------------------------------------------------------------------------------------------- store

// gD <- rD, rounded: registers -> shared memory -> TMA, which leaves out tokens and columns that do not
// exist.
template <class Config>
PTX_DEVICE void store(const HeadGemmParams& params, HeadGemmSmem<Config> smem, HeadTile tile,
                      const float (&rD)[Config::kBlockN / 2]) {
  const uint32_t thread = ptx::thread_idx();
  store_fragment_bf16<128>(thread, rD, [&](uint32_t box, uint32_t row) { return smem.d(box) + row * 128; });
  warpgroup_fence_async(0);
  if (thread != 0) return;
#pragma unroll
  for (uint32_t box = 0; box < Config::kBlockN / Config::kBox; ++box) {
    ptx::tma_store_3d(params.map_d, smem.d(box), tile.column + box * Config::kBox, tile.head, tile.token);
  }
  ptx::bulk_commit_group();
  ptx::bulk_wait_group_read<0>();  // shared memory must outlive the copy out of it
}

// ---------------------------------------------------------------------------------------------------------- math

template <class Config>
PTX_DEVICE void math(const HeadGemmParams& params, HeadGemmSmem<Config> smem, HeadTile tile) {
  Ring<Config::kStages> ring;
  float rD[Config::kBlockN / 2];
#pragma unroll 1
  for (uint32_t k = 0; k < params.k; k += Config::kBlockK, ring.advance()) {
    smem.pipeline().await_full(ring);
    mma<Config>(rD, smem.a(ring.stage), smem.b(ring.stage), k != 0);
    smem.pipeline().release(ring);
  }
  store<Config>(params, smem, tile, rD);
}

// -------------------------------------------------------------------------------------------------------- kernel

template <class Config>
PTX_DEVICE void head_gemm(const HeadGemmParams& params) {
  const HeadGemmSmem<Config> smem{ptx::smem_base()};
  if (ptx::thread_idx() == 0) {
    ptx::prefetch_tensormap(params.map_a);
    ptx::prefetch_tensormap(params.map_w);
    ptx::prefetch_tensormap(params.map_d);
    smem.pipeline().init(1, Config::kMathThreads / 32);
    ptx::fence_mbarrier_init();
  }
  ptx::syncthreads();
  enter_grid();
  const HeadTile tile = head_tile<Config>(params);
  const uint32_t warp = ptx::warp_uniform(ptx::thread_idx() / 32);
  if (warp < Config::kMathThreads / 32) {
    math<Config>(params, smem, tile);
  } else if (ptx::elect_one()) {
    load<Config>(params, smem, tile);
  }
}

}  // namespace mla
