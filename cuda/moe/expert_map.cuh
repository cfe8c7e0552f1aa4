// What the kernels of the expert map share. From top-k ids to rows sorted by expert, in three steps:
//
//   count    block_counts[g, b] = routes of block b whose group is g                 row_route = -1
//   scan     routes of group g in the blocks before b, and in all of them            demand, counts
//   scatter  row of a route = start of its expert + routes of the expert before it   row_route, route_row, offsets
//
// A route is token * top_k + k, a block is consecutive routes, at most as many as a CTA has threads, a group is an expert
// or, last, all ids that are none. Where a list of local ids is given, it says which expert an id means, or that it is on
// another rank. Nothing is added atomically: a row depends on the ids alone. Each step is a launch
// (expert_map_count.cuh and its neighbours), or all are one, behind the gate that makes the ids (gate_map.cuh).
#pragma once
#include <cstdint>

#include "experts.h"
#include "faults.h"
#include "hopper/cta/report_fault.cuh"
#include "hopper/cta/warp_scan.cuh"
#include "hopper/tile/pitch.h"
#include "indices.cuh"
#include "moe/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"

namespace moe {

// The group of a route that was dropped on purpose, and of what lies behind the last route.
constexpr uint32_t kNoGroup = 0xffffffffu;

// The group of an id: -1 asks for no expert, anything else that is no expert belongs to the last group.
constexpr uint32_t group_of_id(uint32_t id, uint32_t experts) {
  constexpr uint32_t kDropped = 0xffffffffu;  // -1
  return id < experts ? id : id == kDropped ? kNoGroup : experts;
}

// The group of an id as tokens choose it.
PTX_DEVICE uint32_t find_group(const ExpertMapParams& params, int32_t id) {
  uint32_t expert = static_cast<uint32_t>(id);
  if (params.local_ids.words != nullptr && expert < params.global_experts) {
    expert = static_cast<uint32_t>(load_index(params.local_ids, 0, expert));
  }
  return group_of_id(expert, params.experts);
}

PTX_DEVICE uint32_t load_group(const ExpertMapParams& params, uint32_t route) {
  if (route >= params.routes) return kNoGroup;
  return find_group(params, load_index(params.ids, route / params.top_k, route % params.top_k));
}

// ----------------------------------------------------------------------------------------------------------- count

template <class Config>
PTX_DEVICE void clear_rows(const ExpertMapParams& params) {
  const uint64_t step = static_cast<uint64_t>(ptx::grid_dim()) * Config::kThreads;
  uint64_t row = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  for (; row < params.rows; row += step) ptx::stg_u32(params.row_route + row, 0xffffffffu);
}

struct BlockRank {
  uint32_t before, total;  // routes of the block in the same group: those before this one, all
};

// sGroups: the groups of the block's routes, whose number is rounded up to a multiple of four. A read of all of them by
// every thread is a broadcast.
PTX_DEVICE BlockRank rank_in_block(uint32_t sGroups, uint32_t routes, uint32_t group) {
  const uint32_t thread = ptx::thread_idx();
  BlockRank rank = {};
#pragma unroll 8
  for (uint32_t i = 0; i < routes; i += 4) {
    const ptx::U32x4 v = ptx::lds_v4_u32(sGroups + i * sizeof(uint32_t));
    const uint32_t four[] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      rank.total += four[j] == group;
      rank.before += four[j] == group && i + j < thread;
    }
  }
  return rank;
}

// block_counts <- the routes of this block, by group: the first route of a group tells how many there are. This thread's
// group, and the routes of the block in it that come before its own. sCounts: a number per group.
template <class Config>
PTX_DEVICE uint32_t count_block(const ExpertMapParams& params, uint32_t sGroups, uint32_t routes, uint32_t sCounts) {
  const uint32_t thread = ptx::thread_idx(), block = ptx::cta_idx();
  for (uint32_t g = thread; g <= params.experts; g += Config::kThreads) {
    ptx::sts_u32(sCounts + g * sizeof(uint32_t), 0);
  }
  ptx::syncthreads();
  const uint32_t group = ptx::lds_u32(sGroups + thread * sizeof(uint32_t));
  BlockRank rank = {};
  if (group != kNoGroup) {
    rank = rank_in_block(sGroups, routes, group);
    if (rank.before == 0) ptx::sts_u32(sCounts + group * sizeof(uint32_t), rank.total);
  }
  ptx::syncthreads();
  for (uint32_t g = thread; g <= params.experts; g += Config::kThreads) {
    uint32_t* gCount = params.block_counts + static_cast<uint64_t>(g) * params.blocks + block;
    ptx::stg_u32(gCount, ptx::lds_u32(sCounts + g * sizeof(uint32_t)));
  }
  return rank.before;
}

// ------------------------------------------------------------------------------------------------------------ scan

// What is known of a group once it is counted.
PTX_DEVICE void store_demand(const ExpertMapParams& params, uint32_t group, uint32_t demand) {
  ptx::stg_u32(params.demand + group, demand);
  if (group == params.experts) {
    if (demand > 0) report_fault(params.error_words, FAULT_EXPERT_ID);
    return;
  }
  const bool fits = demand <= params.max_rows;
  ptx::stg_u32(params.counts + group, fits ? demand : params.max_rows);
  if (!fits) report_fault(params.error_words, FAULT_SEGMENT);
}

// --------------------------------------------------------------------------------------------------------- scatter

struct CtaSum {
  uint32_t before, total;  // over the threads before this one, over all
};

// sSums: a number per warp.
template <class Config>
PTX_DEVICE CtaSum cta_sum(uint32_t value, uint32_t sSums) {
  const uint32_t thread = ptx::thread_idx(), warp = thread / 32;
  CtaSum sum = {exclusive_scan(value, [](uint32_t a, uint32_t b) { return a + b; }), 0};
  if (thread % 32 == 31) ptx::sts_u32(sSums + warp * sizeof(uint32_t), sum.before + value);
  ptx::syncthreads();
#pragma unroll
  for (uint32_t w = 0; w < Config::kThreads / 32; ++w) {
    const uint32_t of_warp = ptx::lds_u32(sSums + w * sizeof(uint32_t));
    if (w < warp) sum.before += of_warp;
    sum.total += of_warp;
  }
  return sum;
}

// Rows that the segment of an expert with `count` routes spans.
PTX_DEVICE uint32_t segment_rows(const ExpertMapParams& params, uint32_t count) {
  if (params.alignment == 0) return params.max_rows;
  return (count + params.alignment - 1) / params.alignment * params.alignment;
}

// sStarts [experts] <- first rows, which the next barrier makes visible; offsets <- the same, by the first CTA.
// demand_of(expert): its routes, asked for once.
template <class Config, class DemandOf>
PTX_DEVICE void start_segments(const ExpertMapParams& params, uint32_t sStarts, uint32_t sSums, DemandOf demand_of) {
  static_assert(MAX_EXPERTS % Config::kThreads == 0, "as many experts per thread");
  constexpr uint32_t kExpertsPerThread = MAX_EXPERTS / Config::kThreads;
  const uint32_t expert0 = ptx::thread_idx() * kExpertsPerThread;
  const bool writes = ptx::cta_idx() == 0;
  uint32_t rows[kExpertsPerThread] = {};
  uint32_t mine = 0;
#pragma unroll
  for (uint32_t i = 0; i < kExpertsPerThread; ++i) {
    if (expert0 + i < params.experts) rows[i] = segment_rows(params, demand_of(expert0 + i));
    mine += rows[i];
  }
  const CtaSum sum = cta_sum<Config>(mine, sSums);
  uint32_t start = sum.before;
#pragma unroll
  for (uint32_t i = 0; i < kExpertsPerThread; ++i) {
    if (expert0 + i < params.experts) {
      ptx::sts_u32(sStarts + (expert0 + i) * sizeof(uint32_t), start);
      if (writes) ptx::stg_u32(params.offsets + expert0 + i, start);
    }
    start += rows[i];
  }
  if (writes && expert0 == 0) ptx::stg_u32(params.offsets + params.experts, sum.total);
}

// A route of a group finds its row; `rank` routes of its expert come before it.
PTX_DEVICE void place_route(const ExpertMapParams& params, uint32_t route, uint32_t group, uint32_t rank,
                            uint32_t sStarts) {
  uint32_t row = 0xffffffffu;  // -1
  if (group < params.experts && rank < params.max_rows) {
    row = ptx::lds_u32(sStarts + group * sizeof(uint32_t)) + rank;
    ptx::stg_u32(params.row_route + row, route);
  }
  ptx::stg_u32(params.route_row + pitched(route, params.top_k, params.route_row_pitch), row);
}

}  // namespace moe
