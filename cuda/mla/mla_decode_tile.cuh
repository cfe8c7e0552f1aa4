// What a CTA of MLA decode works on: its piece of the work, its shared memory, its barriers.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/pipeline.cuh"
#include "hopper/tile/order.h"
#include "mla/params.h"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace mla {

// What every configuration shares; an instance derives from it and adds kCache, kCluster.
struct MlaDecodeConfig {
  enum class Cache { kBf16, kFp8, kFp8PerTensor };
  static constexpr int kThreads = 3 * 128;  // two warpgroups that multiply, and a producer
  static constexpr int kBlockRows = 64;  // rows of Q: one wgmma
  static constexpr int kBlockKeys = MLA_BLOCK_KEYS;
  static constexpr int kStages = 2;                          // blocks of keys in shared memory
  static constexpr int kTileColumns = 64;                    // of BF16: one 128-byte swizzle row
  static constexpr int kTileBytes = kBlockKeys * 128;        // [64 keys or rows, 64 columns]
  static constexpr int kRopeTile = MLA_LATENT / kTileColumns;  // tiles 0..7 are latent, tile 8 carries the position
  static constexpr int kTiles = kRopeTile + 1;
  static constexpr int kHalfTiles = kRopeTile / 2;           // of the values, per warpgroup
  static constexpr int kHalfColumns = MLA_LATENT / 2;
  static constexpr int kKeySteps = kBlockKeys / 16;          // of a product with the values
  static constexpr int kScoreRegisters = kBlockKeys / 2;     // of a 64 x 64 tile, per thread
  static constexpr int kOutRegisters = kHalfColumns / 2;     // of a 64 x 256 tile, per thread
};

// The tiles of a block of keys that are given back together, each by the warpgroup that reads it last.
enum MlaTiles : uint32_t { kLeftValues, kRightValues, kRope, kTileGroups };

template <class Config>
struct MlaDecodeStorage {
  alignas(1024) uint8_t q[Config::kTiles][Config::kTileBytes];  // BF16 [9, 64 rows, 64], swizzled
  alignas(1024) uint8_t kv[Config::kStages][Config::kTiles][Config::kTileBytes];  // BF16 [9, 64 keys, 64], swizzled; the last: output
  alignas(1024) uint8_t p[Config::kTileBytes];                  // BF16 [64 rows, 64 keys], swizzled
  float scale[Config::kBlockRows];                // what the block multiplies earlier sums with; last, 1 / l
  uint64_t kv_full[Config::kStages][Config::kTiles];   // mbarriers: tiles land one by one,
  uint64_t kv_empty[Config::kStages][kTileGroups];     // and are given back in groups
  PipelineStorage<1> q_pipeline;
  PipelineStorage<1> p_pipeline;                       // p and scale
  uint64_t scored;                                     // mbarrier: the scores of the next block are done, if there is one
};

// Shared addresses of one CTA's storage.
template <class Config>
struct MlaDecodeSmem {
  using Storage = MlaDecodeStorage<Config>;
  uint32_t base;

  PTX_DEVICE uint32_t q(uint32_t tile) const { return base + offsetof(Storage, q) + tile * Config::kTileBytes; }
  PTX_DEVICE uint32_t kv(uint32_t stage, uint32_t tile) const {
    return base + offsetof(Storage, kv) + (stage * Config::kTiles + tile) * Config::kTileBytes;
  }
  PTX_DEVICE uint32_t p() const { return base + offsetof(Storage, p); }
  PTX_DEVICE uint32_t scale(uint32_t row) const { return base + offsetof(Storage, scale) + row * sizeof(float); }
  PTX_DEVICE uint32_t kv_full(uint32_t stage, uint32_t tile) const {
    return base + offsetof(Storage, kv_full) + (stage * Config::kTiles + tile) * 8;
  }
  PTX_DEVICE uint32_t kv_empty(uint32_t stage, MlaTiles tiles) const {
    return base + offsetof(Storage, kv_empty) + (stage * kTileGroups + tiles) * 8;
  }
  PTX_DEVICE Pipeline<1> q_pipeline() const { return {base + static_cast<uint32_t>(offsetof(Storage, q_pipeline))}; }
  PTX_DEVICE Pipeline<1> p_pipeline() const { return {base + static_cast<uint32_t>(offsetof(Storage, p_pipeline))}; }
  PTX_DEVICE uint32_t scored() const { return base + offsetof(Storage, scored); }
};

// ---------------------------------------------------------------------------------------------------------- work

// One split of one sequence, for 64 rows of its queries: heads of query tokens.
struct MlaWork {
  uint32_t sequence;
  uint32_t first_token;  // of the sequence, among the query tokens of all
  uint32_t q_tokens;     // of the sequence
  uint32_t rows;         // of the sequence
  uint32_t first_row;    // of the CTA, of the sequence: maybe behind its last one
  uint32_t length;       // keys of the sequence
  uint32_t first_key;    // of the split
  uint32_t split;        // of the sequence
  uint32_t blocks;       // of 64 keys; 0 if there are no keys, or if no CTA of the cluster has rows

  // The first key of block `j`, of the sequence.
  PTX_DEVICE uint32_t key(uint32_t j) const { return first_key + j * MLA_BLOCK_KEYS; }

  // Keys of block `j` that exist: fewer than 64 only at the end of the sequence.
  PTX_DEVICE uint32_t keys(uint32_t j) const { return length - key(j); }
};

// Where the results of a split go.
struct MlaPart {
  uint32_t splits;  // of the sequence: with several, the results are partial
  uint32_t index;   // of this one among the splits of all sequences
};

PTX_DEVICE MlaPart part_of(const MlaDecodeParams& params, const MlaWork& work) {
  const uint32_t* gOffsets = params.tables.split_offsets + work.sequence;
  const uint32_t first = ptx::ldg_u32(gOffsets);
  return {ptx::ldg_u32(gOffsets + 1) - first, first + work.split};
}

// The work of one CTA: splits are dealt in rounds, forwards and backwards by turns, for they are listed longest first: who has
// a long one of a round has a short one of the next. The CTAs of a cluster differ in their rows only and share the keys.
template <class Config>
struct MlaWorkList {
  const MlaDecodeParams& params;
  uint32_t index, end;
  uint32_t step, steps;  // to the next one, and over two rounds

  PTX_DEVICE explicit MlaWorkList(const MlaDecodeParams& p)
      : params(p),
        index(ptx::cta_idx() / p.row_tiles),
        end(ptx::ldg_u32(p.tables.split_offsets + p.batch)),
        steps(2 * (ptx::grid_dim() / p.row_tiles)) {
    step = steps - 1 - 2 * index;
  }

  PTX_DEVICE bool has_work() const { return index < end; }
  PTX_DEVICE void advance() {
    index += step;
    step = steps - step;
  }

  PTX_DEVICE MlaWork work() const {
    const uint32_t* gItem = params.tables.items + 2 * static_cast<uint64_t>(index);
    MlaWork w;
    w.sequence = ptx::ldg_u32(gItem);
    const uint32_t* gQueries = params.tables.queries + 2 * static_cast<uint64_t>(w.sequence);
    w.first_token = ptx::ldg_u32(gQueries);
    w.q_tokens = ptx::ldg_u32(gQueries + 1);
    w.rows = w.q_tokens * params.heads;
    const uint32_t tile = ptx::cta_idx() % params.row_tiles;
    w.first_row = tile * Config::kBlockRows;
    w.length = ptx::ldg_u32(params.tables.lengths + w.sequence);
    w.split = ptx::ldg_u32(gItem + 1);
    w.first_key = w.split * params.split_blocks * MLA_BLOCK_KEYS;
    const uint32_t blocks_left = ceil_div(w.length - w.first_key, MLA_BLOCK_KEYS);
    const bool has_rows = tile / Config::kCluster * Config::kCluster * Config::kBlockRows < w.rows;
    w.blocks = !has_rows ? 0 : blocks_left < params.split_blocks ? blocks_left : params.split_blocks;
    return w;
  }
};

// ------------------------------------------------------------------------------------------------------ barriers

// Whether the producer turns the codes of a tile into BF16; others come by TMA.
template <class Config>
constexpr bool dequantizes(uint32_t tile) {
  switch (Config::kCache) {
    case Config::Cache::kBf16: return false;
    case Config::Cache::kFp8: return tile != Config::kRopeTile;
    case Config::Cache::kFp8PerTensor: return true;
  }
}

// Tells every producer that writes these tiles that this warp has read them.
template <class Config>
PTX_DEVICE void release_keys(MlaDecodeSmem<Config> smem, uint32_t stage, MlaTiles tiles) {
  warp_release<Config::kCluster>(smem.kv_empty(stage, tiles));
}

template <class Config>
PTX_DEVICE void init_barriers(MlaDecodeSmem<Config> smem) {
  constexpr uint32_t kWarps = 4;  // of a warpgroup, each of which arrives once
  if (ptx::thread_idx() != 0) return;
#pragma unroll 1
  for (uint32_t stage = 0; stage < Config::kStages; ++stage) {
#pragma unroll 1
    for (uint32_t tile = 0; tile < Config::kTiles; ++tile) {  // dequantised by four warps, or filled by one TMA load
      const uint32_t arrivals = dequantizes<Config>(tile) ? kWarps : 1;
      init_mbarrier(smem.kv_full(stage, tile), arrivals, "kv_full", stage * Config::kTiles + tile);
    }
#pragma unroll 1
    for (uint32_t tiles = 0; tiles < kTileGroups; ++tiles) {
      const uint32_t bar = smem.kv_empty(stage, static_cast<MlaTiles>(tiles));
      init_mbarrier(bar, kWarps * Config::kCluster, "kv_empty", stage * kTileGroups + tiles);
    }
  }
  smem.q_pipeline().init(1, kWarps, "q_full", "q_empty");
  smem.p_pipeline().init(kWarps, kWarps, "p_full", "p_empty");
  init_mbarrier(smem.scored(), kWarps, "scored", 0);
  ptx::fence_mbarrier_init();
}

}  // namespace mla
