// First launch of the expert map (expert_map.cuh): every block counts its routes by group.
//
//   block_counts[g, b] = routes of block b whose group is g      row_route[r] = -1 for every row
//
//   ids indices [tokens, top_k] · block_counts uint32 [experts + 1, blocks] · row_route int32 [rows]
//
// Schedule: every thread compares its group with all others of the block. More CTAs than blocks only help to clear the
// rows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "experts.h"
#include "hopper/cta/enter_grid.cuh"
#include "moe/expert_map.cuh"

namespace moe {

template <class Config>
struct ExpertMapCountStorage {
  uint32_t groups[Config::kThreads];  // of the routes of the block
  uint32_t counts[MAX_EXPERTS + 1];   // routes of each group
};

template <class Config>
PTX_DEVICE void expert_map_count_kernel(const ExpertMapParams& params) {
  enter_grid();
  const uint32_t thread = ptx::thread_idx(), block = ptx::cta_idx();
  clear_rows<Config>(params);
  if (block >= params.blocks) return;
  const uint32_t sGroups = ptx::smem_base();
  const uint32_t sCounts = sGroups + offsetof(ExpertMapCountStorage<Config>, counts);
  ptx::sts_u32(sGroups + thread * sizeof(uint32_t), load_group(params, block * Config::kThreads + thread));
  count_block<Config>(params, sGroups, Config::kThreads, sCounts);
}

}  // namespace moe
