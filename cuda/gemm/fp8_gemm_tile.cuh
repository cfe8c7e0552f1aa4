// What a CTA of the FP8 GEMM works on: the shape of its tile, its shared memory, its piece of D.
#pragma once
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "hopper/cta/pipeline.cuh"
#include "ptx/target.h"

namespace gemm {

// What every configuration shares; an instance derives from it and adds kBlockM, kBlockN, kStages, kCluster, kOutput.
struct Fp8GemmConfig {
  enum class Output { kBf16, kF32 };
  static constexpr int kBlockK = 128;  // one scale, one 128-byte swizzle row, four wgmma of K = 32
  static constexpr int kScaleColumns = 128;  // columns of B that share a scale
  static constexpr int kPanels = 1;          // a tile of B is one, or two: half of its columns n after the others
  static constexpr int kWgmmaM = 64;
  static constexpr int kWgmmaK = 32;
};

// Constants that follow from an instance.
template <class Config>
struct Fp8GemmTile : Config {
  using Config::kBlockK, Config::kBlockM, Config::kBlockN, Config::kCluster, Config::kPanels, Config::kScaleColumns,
      Config::kWgmmaM;
  static constexpr bool kOutputBf16 = Config::kOutput == Config::Output::kBf16;
  static constexpr int kMathWarpgroups = kBlockM == 64 ? 1 : 2;
  static constexpr int kClusterRows = kBlockM * kCluster;              // of the tiles that a cluster takes at a time
  static constexpr int kThreads = 128 * (kMathWarpgroups + 1);         // the last warpgroup loads
  static constexpr int kSlices = kBlockM / kWgmmaM / kMathWarpgroups;  // 64-row slices of one warpgroup
  static constexpr int kRegisters = kBlockN / 2;                       // accumulator of one slice, per thread
  static constexpr int kElementBytes = kOutputBf16 ? 2 : 4;
  static constexpr int kChunkColumns = std::gcd(kBlockN, 128 / kElementBytes);  // width of one TMA store
  static constexpr int kChunkBytes = kChunkColumns * kElementBytes;
  static constexpr int kABytes = kBlockM * kBlockK;
  static constexpr int kBBytes = kBlockN * kBlockK;
  static constexpr int kBBoxes = kCluster > kPanels ? kCluster : kPanels;  // of B: one a CTA, one a panel
  static constexpr int kSfaBytes = kBlockM * static_cast<int>(sizeof(float));
  static constexpr int kRowBytes = kBlockK + static_cast<int>(sizeof(float));  // a row of A and its scale
  // Tiles and scales of B both start at whole spans, so that a span has one scale.
  static constexpr int kSpanColumns = std::gcd(kBlockN / kPanels, kScaleColumns);
  static constexpr int kSpans = kBlockN / kSpanColumns;
  static constexpr int kSpansOfScale = kScaleColumns / kSpanColumns;
  // Two K blocks are in flight where there are registers for two partial sums beside the sum.
  static constexpr bool kTwoInFlight = kSlices == 1 && kBlockN <= 128;
  static constexpr int kEmptyArrivals = kCluster * kMathWarpgroups * 4;  // one per math warp that reads the stage

  static_assert(kSpans <= kSpansOfScale + 1, "wherever a tile starts, it has two scales of B at most");
  static_assert(kBlockN % 16 == 0, "stmatrix.x4 stores 16 columns");
  static_assert(kBlockM % (kWgmmaM * kMathWarpgroups) == 0, "warpgroups own whole 64-row slices");
  static_assert(kCluster == 1 || kCluster == 2, "B is shared by pairs of CTAs");
  static_assert(kPanels == 1 || (kPanels == 2 && kSpans == 2), "of two panels, each has one scale of B");
};

template <class Config, class Tile = Fp8GemmTile<Config>>
struct Fp8GemmStorage {
  alignas(1024) uint8_t a[Config::kStages][Tile::kABytes];               // E4M3 [block_m, 128], swizzled
  alignas(1024) uint8_t b[Config::kStages][Tile::kBBytes];               // E4M3 [block_n, 128], swizzled
  alignas(1024) uint8_t d[Tile::kBlockM * Tile::kBlockN * Tile::kElementBytes];  // [chunk, block_m, chunk columns]
  alignas(128) float sfa[Config::kStages][Tile::kBlockM];
  PipelineStorage<Config::kStages> pipeline;
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
  PTX_DEVICE Pipeline<Config::kStages, Config::kCluster> pipeline() const {
    return {base + static_cast<uint32_t>(offsetof(Storage, pipeline))};
  }

  // Columns [chunk * kChunkColumns, ...) of row `row` of the D tile, before swizzling.
  PTX_DEVICE uint32_t d(uint32_t chunk, uint32_t row) const {
    return base + offsetof(Storage, d) + (chunk * Tile::kBlockM + row) * Tile::kChunkBytes;
  }
};

// A tile of D: rows from `row` on, of which [row_begin, row_end) are to be computed, and the weights of `expert`.
struct GemmTile {
  uint32_t row, row_begin, row_end, column, expert;

  PTX_DEVICE bool has(uint64_t r) const { return r >= row_begin && r < row_end; }
};

}  // namespace gemm
