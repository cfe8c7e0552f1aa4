// Last launch of the expert map (expert_map.cuh): every route finds its row.
//
//   offsets[e] = rows of the segments before e      row = offsets[expert] + routes of the expert before this one
//   row_route[row] = route      route_row[route] = row, or -1 where the route was dropped
//
//   ids indices [tokens, top_k] · block_counts uint32 [experts + 1, blocks] · offsets int32 [experts + 1]
//
// Schedule: every CTA adds up the segments for itself (a few hundred words), the first one writes them; then a thread per
// route counts those of its block that come before it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "experts.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/warp_scan.cuh"
#include "hopper/tile/pitch.h"
#include "moe/expert_map.cuh"

namespace moe {

template <class Config>
struct ExpertMapScatterStorage {
  uint32_t groups[Config::kThreads];     // of the routes of the block
  uint32_t starts[MAX_EXPERTS];          // first rows of the experts
  uint32_t sums[Config::kThreads / 32];  // of the warps
};

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

// sStarts [experts] <- first rows, which the next barrier makes visible.
template <class Config>
PTX_DEVICE void start_segments(const ExpertMapParams& params, uint32_t sStarts, uint32_t sSums) {
  constexpr uint32_t kExpertsPerThread = MAX_EXPERTS / Config::kThreads;
  const uint32_t expert0 = ptx::thread_idx() * kExpertsPerThread;
  const bool writes = ptx::cta_idx() == 0;
  uint32_t rows[kExpertsPerThread] = {};
  uint32_t mine = 0;
#pragma unroll
  for (uint32_t i = 0; i < kExpertsPerThread; ++i) {
    if (expert0 + i < params.experts) rows[i] = segment_rows(params, ptx::ldg_u32(params.demand + expert0 + i));
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

template <class Config>
PTX_DEVICE void expert_map_scatter_kernel(const ExpertMapParams& params) {
  using Storage = ExpertMapScatterStorage<Config>;
  enter_grid();
  const uint32_t thread = ptx::thread_idx(), block = ptx::cta_idx();
  const uint32_t sGroups = ptx::smem_base();
  const uint32_t sStarts = sGroups + offsetof(Storage, starts);
  const uint32_t sSums = sGroups + offsetof(Storage, sums);
  const uint32_t route = block * Config::kThreads + thread;
  const uint32_t group = load_group(params, route);
  ptx::sts_u32(sGroups + thread * sizeof(uint32_t), group);
  start_segments<Config>(params, sStarts, sSums);
  ptx::syncthreads();

  if (route >= params.routes) return;
  uint32_t row = 0xffffffffu;  // -1
  if (group < params.experts) {
    const uint64_t at = static_cast<uint64_t>(group) * params.blocks + block;
    const uint32_t rank = ptx::ldg_u32(params.block_counts + at) + rank_in_block<Config>(sGroups, group).before;
    if (rank < params.max_rows) {
      row = ptx::lds_u32(sStarts + group * sizeof(uint32_t)) + rank;
      ptx::stg_u32(params.row_route + row, route);
    }
  }
  ptx::stg_u32(params.route_row + pitched(route, params.top_k, params.route_row_pitch), row);
}

}  // namespace moe
