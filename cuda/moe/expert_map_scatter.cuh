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
#include "moe/expert_map.cuh"

namespace moe {

template <class Config>
struct ExpertMapScatterStorage {
  uint32_t groups[Config::kThreads];     // of the routes of the block
  uint32_t starts[MAX_EXPERTS];          // first rows of the experts
  uint32_t sums[Config::kThreads / 32];  // of the warps
};

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
  start_segments<Config>(params, sStarts, sSums, [&](uint32_t e) { return ptx::ldg_u32(params.demand + e); });
  ptx::syncthreads();

  if (route >= params.routes) return;
  uint32_t rank = 0;
  if (group < params.experts) {
    rank = ptx::ldg_u32(params.block_counts + static_cast<uint64_t>(group) * params.blocks + block);
    rank += rank_in_block(sGroups, Config::kThreads, group).before;
  }
  place_route(params, route, group, rank, sStarts);
}

}  // namespace moe
