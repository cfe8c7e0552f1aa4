// FP8 block-scaled GEMM over the rows of many experts.
//
//   D[r, n] = sum over g of  sfa[r, g] * sfb[e, n / 128, g] * (A[r, g] . B[e, n, g])       for every row r of expert e
//
//   A [rows, k], B [experts, n, k] E4M3 · sfa FP32 [k/128, rows] · sfb FP32 [experts, n/128, k/128] · D BF16 [rows, n]
//
// Schedule: the roles of fp8_gemm.cuh over tiles that never span two experts. Each expert owns a segment of rows of any
// length; where the segments lie is read from device memory, so a captured graph follows the routing. A tile may fetch
// rows before and past its segment; it stores none of them, and rows do not mix, so nothing fetched beyond reaches a
// result.
#pragma once
#include <cstddef>
#include <cstdint>

#include "faults.h"
#include "gemm/fp8_gemm.cuh"
#include "gemm/params.h"
#include "gemm/segments.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/cta/warp_scan.cuh"
#include "hopper/tile/order.h"
#include "experts.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"

namespace gemm {

// The segments, and the number of tiles before each; what lies past the last expert is empty. The tiles that a cluster
// takes at a time count as one.
struct SegmentTable {
  uint32_t row[MAX_EXPERTS];
  uint32_t row_end[MAX_EXPERTS];
  uint32_t first_tile[MAX_EXPERTS + 1];
};

template <class Config>
struct GroupedFp8GemmStorage {
  Fp8GemmStorage<Config> ring;
  SegmentTable segments;
};

// Shared addresses of a SegmentTable.
struct SegmentSmem {
  uint32_t base;

  PTX_DEVICE uint32_t row(uint32_t e) const { return base + offsetof(SegmentTable, row) + e * 4; }
  PTX_DEVICE uint32_t row_end(uint32_t e) const { return base + offsetof(SegmentTable, row_end) + e * 4; }
  PTX_DEVICE uint32_t first_tile(uint32_t e) const { return base + offsetof(SegmentTable, first_tile) + e * 4; }
};

// The tiles of one CTA over all experts, expert by expert: the tiles of one share its weights in L2. The CTAs of a cluster
// take neighbours along M and share the tile of B; of an expert's last, the second CTA's may have no rows, and is not
// stored.
template <class Config>
struct GroupedSchedule {
  static constexpr bool kMapClipsRows = false;  // the row after a segment is another expert's

  SegmentSmem segments;
  uint32_t experts, n_tiles, tiles, linear, step;

  PTX_DEVICE GroupedSchedule(const GroupedFp8GemmParams& params, SegmentSmem segments)
      : segments(segments),
        experts(params.experts),
        n_tiles(ceil_div(params.gemm.n, Config::kBlockN)),
        tiles(ptx::lds_u32(segments.first_tile(params.experts))),
        linear(ptx::cta_idx() / Config::kCluster),
        step(ptx::grid_dim() / Config::kCluster) {}

  PTX_DEVICE bool has_tile() const { return linear < tiles; }
  PTX_DEVICE void advance() { linear += step; }

  PTX_DEVICE GemmTile tile() const {
    // The last expert whose first tile is not past ours: empty experts share theirs with the one that follows.
    uint32_t expert = 0;
#pragma unroll 1
    for (uint32_t past = experts; past - expert > 1;) {
      const uint32_t middle = (expert + past) / 2;
      const bool not_past = ptx::lds_u32(segments.first_tile(middle)) <= linear;
      expert = not_past ? middle : expert;
      past = not_past ? past : middle;
    }
    const uint32_t row = ptx::lds_u32(segments.row(expert));
    const uint32_t row_end = ptx::lds_u32(segments.row_end(expert));
    const uint32_t within = linear - ptx::lds_u32(segments.first_tile(expert));
    const uint32_t first = first_fetched(row);
    const TileCoord at = tile_coord(within, ceil_div(row_end - first, Fp8GemmTile<Config>::kClusterRows), n_tiles);
    return {first + first_row_of_cta<Config>(at.m), row, row_end, at.n * Config::kBlockN, expert};
  }
};

// Experts that a lane, and a warp, take at a time: all of them at once would not fit its registers.
constexpr uint32_t kExpertsPerLane = 16;
constexpr uint32_t kExpertsAtOnce = 32 * kExpertsPerLane;
static_assert(MAX_EXPERTS % kExpertsAtOnce == 0, "the table has whole rounds");

// The segments of this lane's sixteen experts, whatever stands in memory: ordered, and within the rows there are. `round` is
// the warp's first expert, `reached` where those before it end, and then where these do.
PTX_DEVICE void read_segments(const GroupedFp8GemmParams& params, uint32_t round, int32_t& reached,
                              Segment (&segment)[kExpertsPerLane]) {
  const uint32_t first = round + ptx::thread_idx() * kExpertsPerLane;
  const auto exists = [&](uint32_t i) { return first + i < params.experts; };
  int32_t value[kExpertsPerLane];  // ragged: where the segment ends; masked: its rows
  int32_t furthest = 0;
#pragma unroll
  for (uint32_t i = 0; i < kExpertsPerLane; ++i) {
    const int32_t* gRows = params.rows + first + i + params.ragged;
    value[i] = exists(i) ? static_cast<int32_t>(ptx::ldg_u32(gRows)) : 0;
    furthest = value[i] > furthest ? value[i] : furthest;
  }
  // No segment starts before one that comes earlier has ended.
  const auto larger = [](uint32_t a, uint32_t b) { return a > b ? a : b; };
  int32_t before = static_cast<int32_t>(exclusive_scan(static_cast<uint32_t>(furthest), larger));
  before = reached > before ? reached : before;
  const int32_t end = static_cast<int32_t>(ptx::reduce_max_u32(static_cast<uint32_t>(furthest)));
  reached = end > reached ? end : reached;

  bool clamped = false;
#pragma unroll
  for (uint32_t i = 0; i < kExpertsPerLane; ++i) {
    segment[i] = params.ragged != 0 ? ragged_segment(before, value[i], params.gemm.m)
                                    : masked_segment(first + i, value[i], params.max_rows);
    if (!exists(i)) segment[i] = {};
    clamped = clamped || segment[i].clamped;
    before = value[i] > before ? value[i] : before;
  }
  if (clamped) report_fault(params.error_words, FAULT_SEGMENT);
}

// sSegments <- the table. The first warp.
template <class Config>
PTX_DEVICE void write_segments(const GroupedFp8GemmParams& params, SegmentSmem smem) {
  constexpr uint32_t kRows = Fp8GemmTile<Config>::kClusterRows;
  const uint32_t n_tiles = ceil_div(params.gemm.n, Config::kBlockN);
  const auto tiles = [&](Segment s) { return segment_tiles(s.row, s.row_end, kRows) * n_tiles; };
  const int32_t start = params.ragged != 0 ? static_cast<int32_t>(ptx::ldg_u32(params.rows)) : 0;
  if (start < 0) report_fault(params.error_words, FAULT_SEGMENT);
  int32_t reached = start > 0 ? start : 0;
  uint32_t tiles_before = 0, round = 0;
#pragma unroll 1
  do {
    Segment segment[kExpertsPerLane];
    read_segments(params, round, reached, segment);
    uint32_t own = 0;
#pragma unroll
    for (uint32_t i = 0; i < kExpertsPerLane; ++i) own += tiles(segment[i]);

    uint32_t next = tiles_before + exclusive_scan(own, [](uint32_t a, uint32_t b) { return a + b; });
    const uint32_t first = round + ptx::thread_idx() * kExpertsPerLane;
#pragma unroll
    for (uint32_t i = 0; i < kExpertsPerLane; ++i) {
      ptx::sts_u32(smem.row(first + i), segment[i].row);
      ptx::sts_u32(smem.row_end(first + i), segment[i].row_end);
      ptx::sts_u32(smem.first_tile(first + i), next);
      next += tiles(segment[i]);
    }
    round += kExpertsAtOnce;
    tiles_before = ptx::reduce_max_u32(ptx::thread_idx() == 31 ? next : 0);
  } while (round < params.experts);
  if (ptx::thread_idx() == 0) ptx::sts_u32(smem.first_tile(round), tiles_before);
}

// Shared addresses of one CTA's storage.
template <class Config>
struct GroupedFp8GemmSmem {
  Fp8GemmSmem<Config> ring;

  PTX_DEVICE SegmentSmem segments() const {
    return {ring.base + static_cast<uint32_t>(offsetof(GroupedFp8GemmStorage<Config>, segments))};
  }
};

// Up to where the roles start: the barriers and the table are ready for every thread.
template <class Config>
PTX_DEVICE void enter_segments(const GroupedFp8GemmParams& params, GroupedFp8GemmSmem<Config> smem) {
  init_barriers<Config>(smem.ring);
  enter_grid();
  if (ptx::thread_idx() < 32) write_segments<Config>(params, smem.segments());
  ptx::syncthreads();  // the table is written; a cluster's barrier would not order it
  if constexpr (Config::kCluster > 1) enter_cluster<Config>();
}

template <class Config>
PTX_DEVICE void grouped_fp8_gemm(const GroupedFp8GemmParams& params) {
  const GroupedFp8GemmSmem<Config> smem{ptx::warp_uniform(ptx::smem_base())};
  const StoreD<Config, GroupedSchedule<Config>> store{params.gemm, smem.ring};
  prefetch_maps(params.gemm);
  store.prefetch_map();
  enter_segments(params, smem);
  run_roles(params.gemm, smem.ring, GroupedSchedule<Config>(params, smem.segments()), store);
}

}  // namespace gemm
