// Second launch of the expert map (expert_map.cuh): the running sum of every group over the blocks.
//
//   block_counts[g, b] = routes of group g in the blocks before b      demand[g] = all of them      counts[e] = those kept
//
//   block_counts uint32 [experts + 1, blocks] · demand int32 [experts + 1] · counts int32 [experts]
//
// Schedule: a warp per group, a run of neighbouring blocks per lane.
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/warp_scan.cuh"
#include "moe/expert_map.cuh"

namespace moe {

template <class Config>
PTX_DEVICE void expert_map_scan_kernel(const ExpertMapParams& params) {
  static_assert(Config::kThreads == Config::kGroups * 32, "a warp per group");
  enter_grid();
  const uint32_t lane = ptx::thread_idx() % 32;
  const uint32_t group = ptx::cta_idx() * Config::kGroups + ptx::thread_idx() / 32;
  if (group > params.experts) return;
  uint32_t* gCounts = params.block_counts + static_cast<uint64_t>(group) * params.blocks;
  const uint32_t run = (params.blocks + 31) / 32;
  const uint32_t first = lane * run;
  const uint32_t end = first + run < params.blocks ? first + run : params.blocks;

  uint32_t mine = 0;
  for (uint32_t block = first; block < end; ++block) mine += ptx::ld_global_u32(gCounts + block);
  const uint32_t before = exclusive_scan(mine, [](uint32_t a, uint32_t b) { return a + b; });
  uint32_t upto = before;
  for (uint32_t block = first; block < end; ++block) {
    const uint32_t count = ptx::ld_global_u32(gCounts + block);
    ptx::stg_u32(gCounts + block, upto);
    upto += count;
  }
  if (lane == 31) store_demand(params, group, before + mine);
}

}  // namespace moe
