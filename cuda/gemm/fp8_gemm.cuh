// FP8 block-scaled GEMM.
//
//   D[m, n] = sum over g of  sfa[m, g] * sfb[n / 128, g] * (A[m, g] . B[n, g])        g: blocks of 128 along K
//
//   A [m, k], B [n, k] E4M3, K contiguous · sfa FP32 [k/128, m] · sfb FP32 [n/128, k/128] · D BF16 or FP32 [m, n]
//
// Schedule (drawn in README.md): a persistent grid; in every CTA one producer thread fills a ring of stages by TMA,
// one or two math warpgroups multiply each stage with four wgmmas and add the scaled result to FP32 registers, since
// the tensor core keeps only 13 fraction bits. The order of the sum is fixed, so no tile shape changes a bit of D.
#pragma once
#include <cstdint>
#include <type_traits>

#include "gemm/fp8_gemm_store.cuh"
#include "gemm/fp8_gemm_tile.cuh"
#include "gemm/params.h"
#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pipeline.cuh"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/fragment.h"
#include "hopper/tile/order.h"
#include "hopper/tile/ring.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

namespace gemm {

// The first row of this CTA's tile, where its cluster takes the `m`-th tiles along M.
template <class Config>
PTX_DEVICE uint32_t first_row_of_cta(uint32_t m) {
  const uint32_t tile = Config::kCluster == 1 ? m : m * Config::kCluster + ptx::cluster_rank();
  return tile * Config::kBlockM;
}

// The tiles of one CTA of a dense GEMM, in order: the CTAs of a cluster take neighbours along M and share the tile of B.
// (grouped_fp8_gemm.cuh has the schedule over experts.)
template <class Config>
struct DenseSchedule {
  static constexpr bool kMapClipsRows = true;  // D ends where its tensor map ends

  uint32_t m, m_clusters, n_tiles, linear, step;

  PTX_DEVICE explicit DenseSchedule(const Fp8GemmParams& params)
      : m(params.m),
        m_clusters(ceil_div(params.m, Fp8GemmTile<Config>::kClusterRows)),
        n_tiles(ceil_div(params.n, Config::kBlockN)),
        linear(ptx::cta_idx() / Config::kCluster),
        step(ptx::grid_dim() / Config::kCluster) {}

  PTX_DEVICE bool has_tile() const { return linear < m_clusters * n_tiles; }
  PTX_DEVICE void advance() { linear += step; }

  PTX_DEVICE GemmTile tile() const {
    const TileCoord at = tile_coord(linear, m_clusters, n_tiles);
    return {first_row_of_cta<Config>(at.m), 0, m, at.n * Config::kBlockN, 0};
  }
};

// ---------------------------------------------------------------------------------------------------------- load

// Fills one stage: sA, sB, sSfa <- K block `g` of `tile`. The CTAs of a cluster load B together.
template <class Config>
PTX_DEVICE void load_stage(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t stage, GemmTile tile,
                           uint32_t g) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t full = smem.pipeline().full(stage);
  const uint32_t k = g * Config::kBlockK;
  ptx::mbarrier_arrive_expect_tx(full, params.a_box_rows * Tile::kRowBytes + Tile::kBBytes);
  ptx::tma_load_2d(params.map_a, smem.a(stage), full, k, tile.row);
  ptx::tma_load_2d(params.map_sfa, smem.sfa(stage), full, tile.row, g);
  load_together<Config::kCluster, Config::kBlockN, Tile::kBBytes, Tile::kBBoxes, Config::kPanels - 1>(
      params.map_b, smem.b(stage), full, k, tile.column, tile.expert * Config::kPanels);
}

// The producer thread: keeps the ring full, over all tiles of this CTA.
template <class Config, class Schedule>
PTX_DEVICE void load(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, Schedule schedule) {
  Ring<Config::kStages> ring;
#pragma unroll 1
  for (; schedule.has_tile(); schedule.advance()) {
    const GemmTile tile = schedule.tile();
#pragma unroll 1
    for (uint32_t g = 0; g < params.k_blocks; ++g, ring.advance()) {
      smem.pipeline().await_empty(ring);
      load_stage(params, smem, ring.stage, tile, g);
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- mma

// rPartial <- sA[64 rows] . sB^T over one K block, in flight as one wgmma group.
template <class Config>
PTX_DEVICE void mma(float (&rPartial)[Fp8GemmTile<Config>::kRegisters], uint32_t sA, uint32_t sB) {
  const uint64_t desc_a = descriptor_k_major_128b(sA);
  const uint64_t desc_b = descriptor_k_major_128b(sB);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < Config::kBlockK; k += Config::kWgmmaK) {
    ptx::wgmma_k32_e4m3(rPartial, descriptor_advance(desc_a, k), descriptor_advance(desc_b, k), k != 0);
  }
  ptx::wgmma_commit_group();
}

// ------------------------------------------------------------------------------------------------------- promote

// The scales of B of one K block: of the tile's first columns, and of those among the next 128, or of its second panel.
struct ScaleOfB {
  float first, next;
};

// Where the scales of B of a tile lie, from a K block on.
template <class Config>
struct ScalesOfB {
  using Tile = Fp8GemmTile<Config>;
  // With the other width ptxas would have something wait between two wgmmas.
  using Next = std::conditional_t<Config::kPanels == 1, uint32_t, uint64_t>;

  const float* gSfb;     // of the tile's first column
  Next next;             // from there to those of the next 128 columns, or of the second panel; 0 where there are none
  uint32_t first_spans;  // spans of the tile that have the first scale, if it has so many

  PTX_DEVICE ScalesOfB(const Fp8GemmParams& params, const GemmTile& tile) {
    const uint32_t row = tile.column / Config::kScaleColumns;
    gSfb = params.sfb + tile.expert * Config::kPanels * params.sfb_stride + static_cast<uint64_t>(row) * params.sfb_pitch;
    if constexpr (Config::kPanels == 1) {
      next = (row + 1) * Config::kScaleColumns < params.n ? params.sfb_pitch : 0;
      first_spans = Tile::kSpansOfScale - tile.column % Config::kScaleColumns / Tile::kSpanColumns;
    } else {
      next = static_cast<Next>(ceil_div(params.n, Config::kScaleColumns)) * params.sfb_pitch;
      first_spans = 1;
    }
  }

  // Of the `g`-th K block from here.
  PTX_DEVICE ScaleOfB load(uint32_t g) const {
    return {ptx::ldg_f32(gSfb + g), Tile::kSpans == 1 ? 0.0f : ptx::ldg_f32(gSfb + next + g)};
  }

  // Whether a span has the next scale. The outermost of a tile with two scales have the same wherever it starts.
  PTX_DEVICE bool is_next(uint32_t span) const {
    return span >= Tile::kSpansOfScale || (span > 0 && span >= first_spans);
  }
};

// rD += (sfa * sfb) * rPartial, in FP32. The thread's upper rows have the first scale of A, those 8 below the second.
template <class Config, int Registers>
PTX_DEVICE void promote(float (&rD)[Registers], const float (&rPartial)[Registers], const float (&sfa)[2],
                        const ScaleOfB& sfb, const ScalesOfB<Config>& scales) {
  constexpr int kSpans = Fp8GemmTile<Config>::kSpans;
  float scale[kSpans][2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    // Chosen between as products: a choice between scales would be made early, and wait for them between two wgmmas.
    const float first = ptx::mul_rn(sfa[i], sfb.first), next = ptx::mul_rn(sfa[i], sfb.next);
#pragma unroll
    for (int span = 0; span < kSpans; ++span) scale[span][i] = scales.is_next(span) ? next : first;
  }
#pragma unroll
  for (int i = 0; i < Registers; ++i) {
    rD[i] = ptx::fma_rn(scale[i * kSpans / Registers][i % 4 / 2], rPartial[i], rD[i]);
  }
}

// ---------------------------------------------------------------------------------------------------------- math

// rD += the products of a K block of 64 rows, once no more than `Pending` groups are unfinished. The thread's scales of A
// lie at `sSfa`; `release` tells that the stage has been read.
template <class Config, int Pending, int Registers, class Release>
PTX_DEVICE void finish(float (&rD)[Registers], float (&rPartial)[Registers], uint32_t sSfa,
                       const ScaleOfB& sfb, const ScalesOfB<Config>& scales, const Release& release) {
  // ptxas would take the scales, and the wait for them, between two products; not over a barrier of the warp.
  ptx::syncwarp();
  const float sfa[2] = {ptx::lds_f32(sSfa), ptx::lds_f32(sSfa + 8 * sizeof(float))};
  ptx::wgmma_wait_group<Pending>(rPartial);
  release();
  promote(rD, rPartial, sfa, sfb, scales);
}

// rD <- the tile's only slice of this warpgroup. Two K blocks are in flight: the products of the next one run while this
// one is promoted. Scales of B are loaded two blocks ahead.
template <class Config>
PTX_DEVICE void accumulate_two(float (&rD)[Fp8GemmTile<Config>::kRegisters], Fp8GemmSmem<Config> smem,
                               Ring<Config::kStages>& ring, uint32_t slice_row, uint32_t blocks,
                               ScalesOfB<Config> scales) {
  using Partial = float[Fp8GemmTile<Config>::kRegisters];
  const uint32_t row_bytes = (slice_row + fragment_row(ptx::thread_idx() % 128)) * sizeof(float);
  Partial rEven, rOdd;
  Ring<Config::kStages> ahead = ring;
  const auto start = [&](Partial& rPartial) {
    smem.pipeline().await_full(ahead);
    mma<Config>(rPartial, smem.a(ahead.stage) + slice_row * Config::kBlockK, smem.b(ahead.stage));
    ahead.advance();
  };
  const auto release = [&] {
    smem.pipeline().release(ring);
    ring.advance();
  };
  if (blocks == 0) return;
  start(rEven);
  ScaleOfB even = scales.load(0), odd = {};
  if (blocks > 1) odd = scales.load(1);
  // Counted down: ptxas would fetch the number of blocks anew for every comparison.
#pragma unroll 1
  for (; blocks > 2; blocks -= 2) {
    scales.gSfb += 2;
    start(rOdd);
    finish<Config, 1>(rD, rEven, smem.sfa(ring.stage) + row_bytes, even, scales, release);
    even = scales.load(0);
    start(rEven);
    finish<Config, 1>(rD, rOdd, smem.sfa(ring.stage) + row_bytes, odd, scales, release);
    if (blocks > 3) odd = scales.load(1);
  }
  if (blocks == 2) {
    start(rOdd);
    finish<Config, 1>(rD, rEven, smem.sfa(ring.stage) + row_bytes, even, scales, release);
    finish<Config, 0>(rD, rOdd, smem.sfa(ring.stage) + row_bytes, odd, scales, release);
  } else {
    finish<Config, 0>(rD, rEven, smem.sfa(ring.stage) + row_bytes, even, scales, release);
  }
}

// rD <- the tile's slices of this warpgroup, one product after the other: there are no registers for more in flight. The
// products of the other warpgroup run while this one promotes. Scales of B are loaded a block ahead.
template <class Config>
PTX_DEVICE void accumulate_one(float (&rD)[Fp8GemmTile<Config>::kSlices][Fp8GemmTile<Config>::kRegisters],
                               Fp8GemmSmem<Config> smem, Ring<Config::kStages>& ring, uint32_t first_row,
                               uint32_t blocks, ScalesOfB<Config> scales) {
  constexpr int kSlices = Fp8GemmTile<Config>::kSlices;
  const uint32_t row_bytes = (first_row + fragment_row(ptx::thread_idx() % 128)) * sizeof(float);
  float rPartial[Fp8GemmTile<Config>::kRegisters];
  ScaleOfB sfb = {};
  if (blocks != 0) sfb = scales.load(0);
#pragma unroll 2
  for (; blocks != 0; --blocks, ring.advance()) {
    smem.pipeline().await_full(ring);
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      const uint32_t row = slice * Config::kWgmmaM;
      const auto release = [&] {
        if (slice == kSlices - 1) smem.pipeline().release(ring);
      };
      mma<Config>(rPartial, smem.a(ring.stage) + (first_row + row) * Config::kBlockK, smem.b(ring.stage));
      finish<Config, 0>(rD[slice], rPartial, smem.sfa(ring.stage) + row_bytes + row * sizeof(float), sfb, scales, release);
    }
    ++scales.gSfb;
    if (blocks > 1) sfb = scales.load(0);
  }
}

// sA, sSfa <- zeros in this warpgroup's rows that no box has, in every stage: D has no such rows either, but the products
// read them. Boxes do not touch them, so the producer need not wait.
template <class Config>
PTX_DEVICE void clear_missing_rows(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t warpgroup) {
  constexpr uint32_t kRows = Fp8GemmTile<Config>::kSlices * Config::kWgmmaM;
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t own = warpgroup * kRows, end = own + kRows;
  const uint32_t first = params.a_box_rows > own ? params.a_box_rows : own;
  if (first >= end) return;
#pragma unroll 1
  for (uint32_t stage = 0; stage < Config::kStages; ++stage) {
#pragma unroll 1
    for (uint32_t byte = first * Config::kBlockK + thread * 16; byte < end * Config::kBlockK; byte += 128 * 16) {
      ptx::sts_v4_u32(smem.a(stage) + byte, {});
    }
    const uint32_t row = first + thread * 4;
    if (row < end) ptx::sts_v4_u32(smem.sfa(stage) + row * sizeof(float), {});
  }
  warpgroup_fence_async(warpgroup);
}

// One math warpgroup: mma, promote and store for its slices of every tile.
template <class Config, class Schedule, class Store>
PTX_DEVICE void math(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t warpgroup, Schedule schedule,
                     const Store& store) {
  using Tile = Fp8GemmTile<Config>;
  Ring<Config::kStages> ring;
  clear_missing_rows(params, smem, warpgroup);
#pragma unroll 1
  for (; schedule.has_tile(); schedule.advance()) {
    const GemmTile tile = schedule.tile();
    const ScalesOfB<Config> scales(params, tile);
    const uint32_t first_row = warpgroup * Tile::kSlices * Config::kWgmmaM;
    float rD[Tile::kSlices][Tile::kRegisters] = {};
    if constexpr (Tile::kTwoInFlight) {
      accumulate_two<Config>(rD[0], smem, ring, first_row, params.k_blocks, scales);
    } else {
      accumulate_one<Config>(rD, smem, ring, first_row, params.k_blocks, scales);
    }
    store(warpgroup, tile, rD);
  }
  store.end();
}

// -------------------------------------------------------------------------------------------------------- kernel

// Barriers of the ring, ready for every thread of the cluster and for TMA.
template <class Config>
PTX_DEVICE void init_barriers(Fp8GemmSmem<Config> smem) {
  if (ptx::thread_idx() != 0) return;
  smem.pipeline().init(1, Fp8GemmTile<Config>::kEmptyArrivals);
  ptx::fence_mbarrier_init();
}

// The tensor maps of A and B, on their way to where TMA looks them up. Without K blocks there are none.
PTX_DEVICE void prefetch_maps(const Fp8GemmParams& params) {
  if (ptx::thread_idx() != 0 || params.k_blocks == 0) return;
  ptx::prefetch_tensormap(params.map_a);
  ptx::prefetch_tensormap(params.map_b);
  ptx::prefetch_tensormap(params.map_sfa);
}

// What the roles do once the barriers are ready: load in one thread, math in one or two warpgroups. `store` is what becomes of
// a tile's sums: `StoreD`, or another with what it has.
template <class Config, class Schedule, class Store>
PTX_DEVICE void run_roles(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, Schedule schedule,
                          const Store& store) {
  using Tile = Fp8GemmTile<Config>;
  // Of 168 registers at launch, the producer's go to the math warpgroups: 3 * 168 = 40 + 2 * 232. One math warpgroup
  // has enough from the start.
  const uint32_t warp = ptx::warp_uniform(ptx::thread_idx() / 32);
  const uint32_t warpgroup = warp / 4;
  if (warpgroup == Tile::kMathWarpgroups) {
    if constexpr (Tile::kMathWarpgroups > 1) ptx::setmaxnreg_dec<40>();
    if (warp % 4 == 0 && ptx::elect_one()) load<Config>(params, smem, schedule);
    ptx::syncwarp();
  } else {
    if constexpr (Tile::kMathWarpgroups > 1) ptx::setmaxnreg_inc<232>();
    math<Config>(params, smem, warpgroup, schedule, store);
  }
  leave_cluster<Config>();
}

template <class Config>
PTX_DEVICE void fp8_gemm(const Fp8GemmParams& params) {
  const Fp8GemmSmem<Config> smem{ptx::warp_uniform(ptx::smem_base())};
  const StoreD<Config, DenseSchedule<Config>> store{params, smem};
  prefetch_maps(params);
  store.prefetch_map();
  init_barriers<Config>(smem);
  enter_cluster<Config>();
  enter_grid();
  run_roles(params, smem, DenseSchedule<Config>(params), store);
}

}  // namespace gemm
