// What a CTA of MLA prefill works on: its tile of queries, its shared memory, its barriers.
#pragma once
#include <cstddef>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/pipeline.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/cta/warp_scan.cuh"
#include "hopper/tile/order.h"
#include "indices.cuh"
#include "mla/params.h"
#include "mla/splits.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"

namespace mla {

constexpr uint32_t kPrefillTileColumns = 64;  // of BF16: one 128-byte swizzle row
constexpr uint32_t kPrefillHalfRows = 64;     // of Q: one wgmma
template <class Config>
constexpr uint32_t kPrefillKeyTiles = (Config::kNope + MLA_ROPE) / kPrefillTileColumns;  // the last one carries the position
template <class Config>
constexpr uint32_t kPrefillValueTiles = Config::kValue / kPrefillTileColumns;

template <class Config>
struct MlaPrefillStorage {
  static constexpr uint32_t kQTileBytes = Config::kBlockRows * 128;
  static constexpr uint32_t kKeyTileBytes = Config::kBlockKeys * 128;
  static_assert(Config::kThreads == 3 * 128, "two warpgroups that multiply, and a producer");
  static_assert(Config::kBlockRows == 2 * kPrefillHalfRows, "a wgmma for each");
  static_assert(kPrefillValueTiles<Config> <= kPrefillKeyTiles<Config>, "the output lies where the queries were");

  // BF16, swizzled: tiles of 128 tokens or of a block of keys, 64 columns each.
  alignas(1024) uint8_t q[kPrefillKeyTiles<Config>][kQTileBytes];  // at the end, the output
  alignas(1024) uint8_t k[Config::kStages][kPrefillKeyTiles<Config>][kKeyTileBytes];
  alignas(1024) uint8_t v[Config::kStages][kPrefillValueTiles<Config>][kKeyTileBytes];
  uint64_t q_full;  // mbarrier
  PipelineStorage<Config::kStages> k_pipeline, v_pipeline;
};

// Shared addresses of one CTA's storage.
template <class Config>
struct MlaPrefillSmem {
  using Storage = MlaPrefillStorage<Config>;
  uint32_t base;

  // The rows of one warpgroup.
  PTX_DEVICE uint32_t q(uint32_t tile, uint32_t half) const {
    return base + offsetof(Storage, q) + tile * Storage::kQTileBytes + half * kPrefillHalfRows * 128;
  }
  PTX_DEVICE uint32_t k(uint32_t stage, uint32_t tile) const {
    return base + offsetof(Storage, k) + (stage * kPrefillKeyTiles<Config> + tile) * Storage::kKeyTileBytes;
  }
  PTX_DEVICE uint32_t v(uint32_t stage, uint32_t tile) const {
    return base + offsetof(Storage, v) + (stage * kPrefillValueTiles<Config> + tile) * Storage::kKeyTileBytes;
  }
  PTX_DEVICE uint32_t q_full() const { return base + offsetof(Storage, q_full); }
  PTX_DEVICE Pipeline<Config::kStages> k_pipeline() const {
    return {base + static_cast<uint32_t>(offsetof(Storage, k_pipeline))};
  }
  PTX_DEVICE Pipeline<Config::kStages> v_pipeline() const {
    return {base + static_cast<uint32_t>(offsetof(Storage, v_pipeline))};
  }
};

template <class Config>
PTX_DEVICE void init_barriers(MlaPrefillSmem<Config> smem) {
  constexpr uint32_t kMathWarps = 8;  // each of which releases a stage
  if (ptx::thread_idx() != 0) return;
  init_mbarrier(smem.q_full(), 1, "q_full", 0);
  smem.k_pipeline().init(1, kMathWarps, "k_full", "k_empty");
  smem.v_pipeline().init(1, kMathWarps, "v_full", "v_empty");
  ptx::fence_mbarrier_init();
}

// ---------------------------------------------------------------------------------------------------- sequences

// Rows [first, end) of a list in which the sequences follow each other.
struct MlaRange {
  uint32_t first, end;
  bool clamped;  // what stood there was no range within the rows, in order: this is the nearest that is one
};

// The sequences of a list, asked for by a whole warp, 32 in ascending order at a time, each lane for its own. No sequence
// starts before one that comes earlier has ended.
struct MlaRanges {
  const Indices& offsets;  // [batch + 1]
  uint32_t batch, rows;
  uint32_t furthest;       // end of the sequences so far
  bool clamped;            // the first one begins nowhere

  PTX_DEVICE MlaRanges(const Indices& words, uint32_t sequences, uint32_t all_rows)
      : offsets(words), batch(sequences), rows(all_rows) {
    const int32_t start = load_index(offsets, 0, 0);
    furthest = clamp_length(start, rows);
    clamped = static_cast<int32_t>(furthest) != start;
  }

  // Of a lane past the last sequence: no rows.
  PTX_DEVICE MlaRange next(uint32_t sequence) {
    const bool exists = sequence < batch;
    const int32_t given = exists ? load_index(offsets, 0, sequence + 1) : 0;
    const uint32_t end = clamp_length(given, rows);
    const uint32_t before = exclusive_scan(end, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
    MlaRange range;
    range.first = before > furthest ? before : furthest;
    range.end = end > range.first ? end : range.first;
    range.clamped = exists && static_cast<int32_t>(range.end) != given;
    furthest = ptx::reduce_max_u32(range.end);
    return range;
  }
};

// Up to 128 queries of one sequence, of one head.
struct MlaPrefillWork {
  uint32_t head;
  uint32_t row;       // of q and out: the first of the tile
  uint32_t rows;      // of the tile; 0: nothing to do
  uint32_t token;     // of the sequence: the first of the tile
  uint32_t q_tokens;  // of the sequence
  uint32_t key;       // of k and v: the first of the sequence
  uint32_t keys;      // of the sequence
  uint32_t blocks;    // of keys, that some row of the tile sees

  // Keys that token `t` of the tile sees; of those past the last one, as many as that sees.
  PTX_DEVICE uint32_t visible(uint32_t t, bool causal) const {
    return visible_keys(keys, token + (t < rows ? t : rows - 1), q_tokens, causal);
  }
};

// The value of the only lane that has one.
PTX_DEVICE uint32_t of_lane(bool has, uint32_t value) { return ptx::reduce_max_u32(has ? value : 0); }

// The tile of this CTA, by a whole warp: tiles are counted over the sequences in order, in a sequence from the last on, which
// under a causal mask sees most keys; and the heads come one after the other, so that a head's keys stay in L2.
template <class Config>
PTX_DEVICE MlaPrefillWork find_work(const MlaPrefillParams& params) {
  const uint32_t wanted = ptx::cta_idx() % params.tiles;
  MlaRanges queries(params.q_offsets, params.batch, params.tokens), keys(params.k_offsets, params.batch, params.keys);
  uint32_t counted = 0;
#pragma unroll 1
  for (uint32_t sequence = ptx::thread_idx() % 32; sequence / 32 * 32 < params.batch; sequence += 32) {
    const MlaRange q = queries.next(sequence), k = keys.next(sequence);
    const uint32_t q_tokens = q.end - q.first;
    const uint32_t tiles = ceil_div(q_tokens, Config::kBlockRows);
    const uint32_t before = counted + exclusive_scan(tiles, [](uint32_t a, uint32_t b) { return a + b; });
    const bool mine = wanted - before < tiles;
    if (of_lane(mine, 1) != 0) {
      MlaPrefillWork work;
      work.head = ptx::cta_idx() / params.tiles;
      work.token = of_lane(mine, (before + tiles - 1 - wanted) * Config::kBlockRows);
      work.row = of_lane(mine, q.first) + work.token;
      work.q_tokens = of_lane(mine, q_tokens);
      const uint32_t left = work.q_tokens - work.token;
      work.rows = left < Config::kBlockRows ? left : Config::kBlockRows;
      work.key = of_lane(mine, k.first);
      work.keys = of_lane(mine, k.end - k.first);
      work.blocks = ceil_div(work.visible(work.rows - 1, params.causal != 0), Config::kBlockKeys);
      return work;
    }
    counted += ptx::reduce_add_u32(tiles);
  }
  return {};
}

// Reports offsets that are out of order, or lead outside. A whole warp, which looks at all of them.
PTX_DEVICE void check_offsets(const MlaPrefillParams& params) {
  MlaRanges queries(params.q_offsets, params.batch, params.tokens), keys(params.k_offsets, params.batch, params.keys);
  bool clamped = queries.clamped || keys.clamped;
#pragma unroll 1
  for (uint32_t sequence = ptx::thread_idx() % 32; sequence / 32 * 32 < params.batch; sequence += 32) {
    const bool q = queries.next(sequence).clamped, k = keys.next(sequence).clamped;
    clamped = clamped || q || k;
  }
  if (clamped) report_fault(params.error_words, FAULT_SEQUENCE_LENGTH);
}

}  // namespace mla
