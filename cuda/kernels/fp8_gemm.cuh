// FP8 block-scaled GEMM.
//
//   D[m, n] = sum over g of  sfa[m, g] * sfb[n / 128, g] * (A[m, g] . B[n, g])        g: blocks of 128 along K
//
//   A [m, k], B [n, k] E4M3, K contiguous · sfa FP32 [k/128, m] · sfb FP32 [n/128, k/128] · D BF16 or FP32 [m, n]
//
// Schedule (drawn in fp8_gemm.md): a persistent grid; in every CTA one producer thread fills a ring of stages by TMA,
// one or two math warpgroups multiply each stage with four wgmmas and add the scaled result to FP32 registers, since
// the tensor core keeps only 13 fraction bits. The order of the sum is fixed, so no tile shape changes a bit of D.
#pragma once
#include <cstddef>

#include "params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"
#include "tile/descriptor.h"
#include "tile/fragment.h"
#include "tile/order.h"
#include "tile/ring.h"
#include "tile/swizzle.h"

// What every configuration shares; an instance derives from it and adds kBlockM, kBlockN, kStages, kCluster, kOutput.
struct Fp8GemmConfig {
  enum class Output { kBf16, kF32 };
  static constexpr int kBlockK = 128;  // one scale, one 128-byte swizzle row, four wgmma of K = 32
  static constexpr int kWgmmaM = 64;
  static constexpr int kWgmmaK = 32;
};

// Constants that follow from an instance.
template <class Config>
struct Fp8GemmTile : Config {
  using Config::kBlockK, Config::kBlockM, Config::kBlockN, Config::kCluster, Config::kWgmmaM;
  static constexpr bool kOutputBf16 = Config::kOutput == Config::Output::kBf16;
  static constexpr int kMathWarpgroups = kBlockM == 64 ? 1 : 2;
  static constexpr int kWaves = kBlockM / kWgmmaM / kMathWarpgroups;  // 64-row slices of one warpgroup
  static constexpr int kRegisters = kBlockN / 2;                      // accumulator of one slice, per thread
  static constexpr int kElementBytes = kOutputBf16 ? 2 : 4;
  static constexpr int kChunkBytes = kBlockN * kElementBytes < 128 ? kBlockN * kElementBytes : 128;
  static constexpr int kChunkColumns = kChunkBytes / kElementBytes;  // width of one TMA store
  static constexpr int kABytes = kBlockM * kBlockK;
  static constexpr int kBBytes = kBlockN * kBlockK;
  static constexpr int kSfaBytes = kBlockM * static_cast<int>(sizeof(float));
  static constexpr int kEmptyArrivals = kCluster * kMathWarpgroups * 4;  // one per math warp that reads the stage

  static_assert(128 % kBlockN == 0, "one scale of B must serve the whole tile");
  static_assert(kBlockN >= 16, "stmatrix.x4 stores 16 columns");
  static_assert(kBlockM % (kWgmmaM * kMathWarpgroups) == 0, "warpgroups own whole 64-row slices");
  static_assert(kCluster == 1 || kCluster == 2, "B is shared by pairs of CTAs");
};

template <class Config, class Tile = Fp8GemmTile<Config>>
struct Fp8GemmStorage {
  alignas(1024) uint8_t a[Config::kStages][Tile::kABytes];               // E4M3 [block_m, 128], swizzled
  alignas(1024) uint8_t b[Config::kStages][Tile::kBBytes];               // E4M3 [block_n, 128], swizzled
  alignas(1024) uint8_t d[Tile::kBlockM * Tile::kBlockN * Tile::kElementBytes];  // [chunk, block_m, chunk columns]
  alignas(128) float sfa[Config::kStages][Tile::kBlockM];
  uint64_t full[Config::kStages];   // mbarrier: the stage's bytes have landed
  uint64_t empty[Config::kStages];  // mbarrier: every math warp of the cluster is done with the stage
};

// Shared addresses of one CTA's storage.
template <class Config>
struct Fp8GemmSmem {
  using Tile = Fp8GemmTile<Config>;
  using Storage = Fp8GemmStorage<Config>;
  uint32_t base;

  PTX_DEVICE uint32_t a(uint32_t stage) const { return base + offsetof(Storage, a) + stage * Tile::kABytes; }
  PTX_DEVICE uint32_t b(uint32_t stage) const { return base + offsetof(Storage, b) + stage * Tile::kBBytes; }
  PTX_DEVICE uint32_t sfa(uint32_t stage) const { return base + offsetof(Storage, sfa) + stage * Tile::kSfaBytes; }
  PTX_DEVICE uint32_t full(uint32_t stage) const { return base + offsetof(Storage, full) + stage * 8; }
  PTX_DEVICE uint32_t empty(uint32_t stage) const { return base + offsetof(Storage, empty) + stage * 8; }

  // Columns [chunk * kChunkColumns, ...) of row `row` of the D tile, before swizzling.
  PTX_DEVICE uint32_t d(uint32_t chunk, uint32_t row) const {
    return base + offsetof(Storage, d) + (chunk * Tile::kBlockM + row) * Tile::kChunkBytes;
  }
};

// The tiles of one CTA, in order: the CTAs of a cluster take neighbours along M and share the tile of B.
template <class Config>
struct Fp8GemmWalk {
  uint32_t m_clusters, n_tiles, linear, step;

  PTX_DEVICE explicit Fp8GemmWalk(const Fp8GemmParams& params)
      : m_clusters(ceil_div(params.m, Config::kBlockM * Config::kCluster)),
        n_tiles(ceil_div(params.n, Config::kBlockN)),
        linear(ptx::block_idx() / Config::kCluster),
        step(ptx::grid_dim() / Config::kCluster) {}

  PTX_DEVICE bool has_tile() const { return linear < m_clusters * n_tiles; }
  PTX_DEVICE void advance() { linear += step; }

  // First row and column of the current tile in D.
  PTX_DEVICE TileCoord origin() const {
    const TileCoord tile = tile_coord(linear, m_clusters, n_tiles);
    const uint32_t m_tile = Config::kCluster == 1 ? tile.m : tile.m * Config::kCluster + ptx::cluster_rank();
    return {m_tile * Config::kBlockM, tile.n * Config::kBlockN};
  }
};

// ---------------------------------------------------------------------------------------------------------- load

// Fills one stage: sA, sB, sSfa <- K block `g` of the tile at `origin`. In a cluster each CTA fetches half of B and
// multicasts it to both.
template <class Config>
PTX_DEVICE void load_stage(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t stage, TileCoord origin,
                           uint32_t g) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t full = smem.full(stage);
  const uint32_t k = g * Config::kBlockK;
  ptx::mbarrier_arrive_expect_tx(full, Tile::kABytes + Tile::kBBytes + Tile::kSfaBytes);
  ptx::tma_load_2d(params.map_a, smem.a(stage), full, k, origin.m);
  ptx::tma_load_2d(params.map_sfa, smem.sfa(stage), full, origin.m, g);
  if constexpr (Config::kCluster == 1) {
    ptx::tma_load_2d(params.map_b, smem.b(stage), full, k, origin.n);
  } else {
    const uint32_t rank = ptx::cluster_rank();
    constexpr uint32_t kHalfRows = Config::kBlockN / 2;
    ptx::tma_load_2d_multicast(params.map_b, smem.b(stage) + rank * (Tile::kBBytes / 2), full, k,
                               origin.n + rank * kHalfRows, 0b11);
  }
}

// The producer thread: keeps the ring full, over all tiles of this CTA.
template <class Config>
PTX_DEVICE void load(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem) {
  Ring<Config::kStages> ring;
#pragma unroll 1
  for (Fp8GemmWalk<Config> walk(params); walk.has_tile(); walk.advance()) {
    const TileCoord origin = walk.origin();
#pragma unroll 1
    for (uint32_t g = 0; g < params.k_blocks; ++g, ring.advance()) {
      ptx::mbarrier_wait_cluster(smem.empty(ring.stage), ring.phase ^ 1);  // a fresh barrier lets the first lap through
      load_stage(params, smem, ring.stage, origin, g);
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- mma

// rPartial <- sA[64 rows] . sB^T over one K block; returns when the tensor core is done with the stage.
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
  ptx::wgmma_wait_group<0>(rPartial);
}

// Tells every producer that writes this CTA's stage that this warp has read it.
template <class Config>
PTX_DEVICE void release_stage(Fp8GemmSmem<Config> smem, uint32_t stage) {
  ptx::syncwarp();  // the other lanes' scale loads come before lane 0's arrival
  const uint32_t lane = ptx::thread_idx() % 32;
  if constexpr (Config::kCluster == 1) {
    if (lane == 0) ptx::mbarrier_arrive(smem.empty(stage));
  } else {
    if (lane < Config::kCluster) ptx::mbarrier_arrive_cluster(smem.empty(stage), lane);
  }
}

// ------------------------------------------------------------------------------------------------------- promote

// rD += (sfa * sfb) * rPartial, in FP32. `sfa0` belongs to the thread's upper rows, `sfa8` to those 8 below.
template <int Registers>
PTX_DEVICE void promote(float (&rD)[Registers], const float (&rPartial)[Registers], float sfa0, float sfa8, float sfb) {
  const float scale[2] = {sfa0 * sfb, sfa8 * sfb};
#pragma unroll
  for (int i = 0; i < Registers; ++i) rD[i] = ptx::fma_rn(scale[i % 4 / 2], rPartial[i], rD[i]);
}

// --------------------------------------------------------------------------------------------------------- store

// rD += D, for the elements that exist. n is a multiple of 8, so the two columns of a register pair exist together.
template <class Config>
PTX_DEVICE void add_d(const Fp8GemmParams& params, float (&rD)[Fp8GemmTile<Config>::kRegisters], uint32_t row0,
                      uint32_t column0) {
  using Tile = Fp8GemmTile<Config>;
  const uint8_t* gD = static_cast<const uint8_t*>(params.d);
#pragma unroll
  for (int i = 0; i < Tile::kRegisters; i += 2) {
    const uint64_t row = row0 + 8 * (i % 4 / 2);
    const uint32_t column = column0 + 8 * (i / 4);
    if (row >= params.m || column >= params.n) continue;
    const uint8_t* p = gD + (row * params.d_pitch + column) * Tile::kElementBytes;
    if constexpr (Tile::kOutputBf16) {
      const uint32_t pair = ptx::ld_global_u32(p);
      rD[i] += ptx::bf16_lo_f32(pair);
      rD[i + 1] += ptx::bf16_hi_f32(pair);
    } else {
      rD[i] += ptx::ld_global_f32(p);
      rD[i + 1] += ptx::ld_global_f32(p + 4);
    }
  }
}

// sD <- rD, one 64-row slice that starts at `slice_row` of the tile; rounds to BF16 here, once.
template <class Config>
PTX_DEVICE void write_slice(Fp8GemmSmem<Config> smem, const float (&rD)[Fp8GemmTile<Config>::kRegisters],
                            uint32_t slice_row) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t lane = thread % 32;
  constexpr int kStep = Tile::kOutputBf16 ? 16 : 8;  // columns a warp stores at once
#pragma unroll
  for (int column = 0; column < Config::kBlockN; column += kStep) {
    const uint32_t chunk = column / Tile::kChunkColumns;
    const uint32_t byte = column % Tile::kChunkColumns * Tile::kElementBytes;
    const int r = column / 2;  // first register of these columns
    if constexpr (Tile::kOutputBf16) {
      const uint32_t row = slice_row + 16 * (thread / 32) + stmatrix_row(lane);
      const uint32_t sD = smem.d(chunk, row) + byte + stmatrix_column(lane) * 2;
      ptx::stmatrix_x4(swizzle<Tile::kChunkBytes>(sD), ptx::cvt_bf16x2(rD[r + 1], rD[r]),
                       ptx::cvt_bf16x2(rD[r + 3], rD[r + 2]), ptx::cvt_bf16x2(rD[r + 5], rD[r + 4]),
                       ptx::cvt_bf16x2(rD[r + 7], rD[r + 6]));
    } else {
      const uint32_t sD = smem.d(chunk, slice_row + fragment_row(thread)) + byte + fragment_column(thread) * 4;
      ptx::sts_v2_f32(swizzle<Tile::kChunkBytes>(sD), rD[r], rD[r + 1]);
      ptx::sts_v2_f32(swizzle<Tile::kChunkBytes>(sD + 8 * Tile::kChunkBytes), rD[r + 2], rD[r + 3]);
    }
  }
}

// Meets the 128 threads of one math warpgroup. The ids are constants, so that ptxas reserves only these two.
PTX_DEVICE void warpgroup_sync(uint32_t warpgroup) {
  if (warpgroup == 0) {
    ptx::named_barrier_sync<1, 128>();
  } else {
    ptx::named_barrier_sync<2, 128>();
  }
}

// D <- rD: registers -> shared memory -> TMA, which clips at the edges. The copy overlaps the next tile's products.
template <class Config>
PTX_DEVICE void store(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t warpgroup, TileCoord origin,
                      float (&rD)[Fp8GemmTile<Config>::kWaves][Fp8GemmTile<Config>::kRegisters]) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t first_row = warpgroup * Tile::kWaves * Config::kWgmmaM;
  if (thread == 0) ptx::bulk_wait_group_read<0>();  // the previous tile's copy has left sD
  warpgroup_sync(warpgroup);
#pragma unroll
  for (int wave = 0; wave < Tile::kWaves; ++wave) {
    const uint32_t slice_row = first_row + wave * Config::kWgmmaM;
    if (params.accumulate != 0) {
      add_d<Config>(params, rD[wave], origin.m + slice_row + fragment_row(thread), origin.n + fragment_column(thread));
    }
    write_slice<Config>(smem, rD[wave], slice_row);
  }
  ptx::fence_proxy_async_shared();
  warpgroup_sync(warpgroup);
  if (thread != 0) return;
#pragma unroll
  for (int chunk = 0; chunk < Config::kBlockN / Tile::kChunkColumns; ++chunk) {
#pragma unroll
    for (int wave = 0; wave < Tile::kWaves; ++wave) {
      const uint32_t slice_row = first_row + wave * Config::kWgmmaM;
      ptx::tma_store_2d(params.map_d, smem.d(chunk, slice_row), origin.n + chunk * Tile::kChunkColumns,
                        origin.m + slice_row);
    }
  }
  ptx::bulk_commit_group();
}

// ---------------------------------------------------------------------------------------------------------- math

// One math warpgroup: mma, promote and store for its slices of every tile.
template <class Config>
PTX_DEVICE void math(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t warpgroup) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t thread = ptx::thread_idx() % 128;
  Ring<Config::kStages> ring;
#pragma unroll 1
  for (Fp8GemmWalk<Config> walk(params); walk.has_tile(); walk.advance()) {
    const TileCoord origin = walk.origin();
    const float* gSfb = params.sfb + static_cast<uint64_t>(origin.n / Config::kBlockK) * params.sfb_pitch;
    float rD[Tile::kWaves][Tile::kRegisters] = {};
#pragma unroll 1
    for (uint32_t g = 0; g < params.k_blocks; ++g, ring.advance()) {
      const float sfb = ptx::ldg_f32(gSfb + g);
      ptx::mbarrier_wait(smem.full(ring.stage), ring.phase);
#pragma unroll
      for (int wave = 0; wave < Tile::kWaves; ++wave) {
        const uint32_t slice_row = (warpgroup * Tile::kWaves + wave) * Config::kWgmmaM;
        const uint32_t sSfa = smem.sfa(ring.stage) + (slice_row + fragment_row(thread)) * sizeof(float);
        const float sfa0 = ptx::lds_f32(sSfa);  // before the products, so that the stage can go right after them
        const float sfa8 = ptx::lds_f32(sSfa + 8 * sizeof(float));
        float rPartial[Tile::kRegisters];
        mma<Config>(rPartial, smem.a(ring.stage) + slice_row * Config::kBlockK, smem.b(ring.stage));
        if (wave == Tile::kWaves - 1) release_stage(smem, ring.stage);
        promote(rD[wave], rPartial, sfa0, sfa8, sfb);
      }
    }
    store(params, smem, warpgroup, origin, rD);
  }
  if (thread == 0) ptx::bulk_wait_group_read<0>();  // shared memory must outlive the last copy out of it
}

// -------------------------------------------------------------------------------------------------------- kernel

// Barriers of the ring, ready for every thread of the cluster and for TMA.
template <class Config>
PTX_DEVICE void init_barriers(Fp8GemmSmem<Config> smem) {
  if (ptx::thread_idx() == 0) {
#pragma unroll 1
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(smem.full(stage), 1);
      ptx::mbarrier_init(smem.empty(stage), Fp8GemmTile<Config>::kEmptyArrivals);
      ptx::name_shared(smem.full(stage), "full", stage);
      ptx::name_shared(smem.empty(stage), "empty", stage);
    }
    ptx::fence_mbarrier_init();
  }
}

// All threads of the CTA, or of both CTAs of a cluster.
template <class Config>
PTX_DEVICE void cluster_sync() {
  if constexpr (Config::kCluster == 1) {
    ptx::syncthreads();
  } else {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
}

template <class Config>
PTX_DEVICE void fp8_gemm(const Fp8GemmParams& params) {
  using Tile = Fp8GemmTile<Config>;
  const Fp8GemmSmem<Config> smem{ptx::smem_base()};
  init_barriers<Config>(smem);
  cluster_sync<Config>();

  // Of 168 registers at launch, the producer's go to the math warpgroups: 3 * 168 = 40 + 2 * 232. One math warpgroup
  // has enough from the start.
  const uint32_t warp = ptx::warp_uniform(ptx::thread_idx() / 32);
  const uint32_t warpgroup = warp / 4;
  if (warpgroup == Tile::kMathWarpgroups) {
    if constexpr (Tile::kMathWarpgroups > 1) ptx::setmaxnreg_dec<40>();
    if (warp % 4 == 0 && ptx::elect_one()) load<Config>(params, smem);
    ptx::syncwarp();
  } else {
    if constexpr (Tile::kMathWarpgroups > 1) ptx::setmaxnreg_inc<232>();
    math<Config>(params, smem, warpgroup);
  }
  // A CTA must outlive its peer's last arrival on its barriers.
  if constexpr (Config::kCluster > 1) cluster_sync<Config>();
}
