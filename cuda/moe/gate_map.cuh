// The gate's choice and the whole expert map of few tokens, in one launch of one cluster: what gate_select and the three
// launches of the map compute, to the bit.
//
//   logits ─► ids, weights (gate_choice.cuh) ─► count ─► scan ─► scatter (expert_map.cuh)
//
// Schedule: the tokens are dealt to the CTAs in order, a warp per token; a CTA's routes are its block, a thread each. CTAs
// tell each other through block_counts alone, which the barrier of the cluster orders: whatever else runs, nobody waits for
// a CTA that may not have started. Then every CTA adds up the blocks for itself, and its routes find their rows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "experts.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/tile/order.h"
#include "moe/expert_map.cuh"
#include "ptx/sync.h"
#include "router/gate_choice.cuh"

namespace moe {

template <class Config>
struct GateMapStorage {
  uint32_t groups[Config::kThreads];     // of the routes of the block
  uint32_t counts[MAX_EXPERTS + 1];      // routes of each group in the block
  uint32_t before[MAX_EXPERTS + 1];      // routes of each group in the blocks before
  uint32_t starts[MAX_EXPERTS];          // first rows of the experts
  uint32_t sums[Config::kThreads / 32];  // of the warps
};

// The block of this CTA.
struct RouteBlock {
  uint32_t first, routes;
};

// Chooses for the tokens of the block. sGroups <- the groups of its routes, and none behind them.
template <class Config>
PTX_DEVICE RouteBlock choose_block(const GateMapParams& params, uint32_t sGroups) {
  static_assert(MAX_GATE_ROUTES <= 32, "a thread for each route of a warp's token");
  const uint32_t thread = ptx::thread_idx(), warp = thread / 32, lane = thread % 32;
  const uint32_t tokens = params.gate.t, top_k = params.map.top_k;
  const uint32_t share = ceil_div(tokens, Config::kCluster);
  const uint32_t first = share * ptx::cta_idx() < tokens ? share * ptx::cta_idx() : tokens;
  const uint32_t count = tokens - first < share ? tokens - first : share;
  if (thread >= count * top_k) ptx::sts_u32(sGroups + thread * sizeof(uint32_t), kNoGroup);
  if (warp < count) {
    const router::GateRoute route = router::route_token<Config::kExperts / 32>(params.gate, first + warp);
    const uint32_t group = find_group(params.map, route.id);
    if (lane < top_k) ptx::sts_u32(sGroups + (warp * top_k + lane) * sizeof(uint32_t), group);
  }
  return {first * top_k, count * top_k};
}

// The routes to a group in all blocks. sBefore <- those in the blocks before this one.
template <class Config>
PTX_DEVICE uint32_t sum_blocks(const ExpertMapParams& params, uint32_t group, uint32_t sBefore) {
  const uint32_t* gCounts = params.block_counts + group * Config::kCluster;
  const uint32_t own = ptx::cta_idx();
  uint32_t before = 0, total = 0;
#pragma unroll
  for (uint32_t block = 0; block < Config::kCluster; ++block) {
    const uint32_t count = ptx::ld_global_u32(gCounts + block);
    if (block < own) before += count;
    total += count;
  }
  ptx::sts_u32(sBefore + group * sizeof(uint32_t), before);
  if (own == 0) store_demand(params, group, total);
  return total;
}

template <class Config>
PTX_DEVICE void gate_map_kernel(const GateMapParams& params) {
  using Storage = GateMapStorage<Config>;
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint32_t sGroups = ptx::smem_base();
  const uint32_t sBefore = sGroups + offsetof(Storage, before);
  const uint32_t sStarts = sGroups + offsetof(Storage, starts);
  clear_rows<Config>(params.map);
  const RouteBlock block = choose_block<Config>(params, sGroups);
  uint32_t rank = count_block<Config>(params.map, sGroups, block.routes, sGroups + offsetof(Storage, counts));

  // Every count, and every row that was cleared, before anybody looks.
  ptx::cluster_arrive();
  ptx::cluster_wait();
  start_segments<Config>(params.map, sStarts, sGroups + offsetof(Storage, sums),
                         [&](uint32_t expert) { return sum_blocks<Config>(params.map, expert, sBefore); });
  // The gate drops what is no expert; a list of local ids may have such.
  if (thread == 0) sum_blocks<Config>(params.map, params.map.experts, sBefore);
  ptx::syncthreads();

  if (thread >= block.routes) return;
  const uint32_t group = ptx::lds_u32(sGroups + thread * sizeof(uint32_t));
  if (group < params.map.experts) rank += ptx::lds_u32(sBefore + group * sizeof(uint32_t));
  place_route(params.map, block.first + thread, group, rank, sStarts);
}

}  // namespace moe
