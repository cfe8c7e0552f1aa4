// First launch of the expert map (expert_map.cuh): every block counts its routes by group.
//
//   block_counts[g, b] = routes of block b whose group is g      row_route[r] = -1 for every row
//
//   ids indices [tokens, top_k] · block_counts uint32 [experts + 1, blocks] · row_route int32 [rows]
//
// Schedule: every thread compares its group with all others of the block; the first route of a group tells how many
// there are. More CTAs than blocks only help to clear the rows.
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
PTX_DEVICE void clear_rows(const ExpertMapParams& params) {
  const uint64_t step = static_cast<uint64_t>(ptx::grid_dim()) * Config::kThreads;
  uint64_t row = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  for (; row < params.rows; row += step) ptx::stg_u32(params.row_route + row, 0xffffffffu);
}

template <class Config>
PTX_DEVICE void expert_map_count_kernel(const ExpertMapParams& params) {
  enter_grid();
  const uint32_t thread = ptx::thread_idx(), block = ptx::cta_idx();
  clear_rows<Config>(params);
  if (block >= params.blocks) return;

  const uint32_t sGroups = ptx::smem_base();
  const uint32_t sCounts = sGroups + offsetof(ExpertMapCountStorage<Config>, counts);
  const uint32_t group = load_group(params, block * Config::kThreads + thread);
  ptx::sts_u32(sGroups + thread * sizeof(uint32_t), group);
  for (uint32_t g = thread; g <= params.experts; g += Config::kThreads) {
    ptx::sts_u32(sCounts + g * sizeof(uint32_t), 0);
  }
  ptx::syncthreads();
  if (group != kNoGroup) {
    const BlockRank rank = rank_in_block<Config>(sGroups, group);
    if (rank.before == 0) ptx::sts_u32(sCounts + group * sizeof(uint32_t), rank.total);
  }
  ptx::syncthreads();
  for (uint32_t g = thread; g <= params.experts; g += Config::kThreads) {
    uint32_t* gCount = params.block_counts + static_cast<uint64_t>(g) * params.blocks + block;
    ptx::stg_u32(gCount, ptx::lds_u32(sCounts + g * sizeof(uint32_t)));
  }
}

}  // namespace moe
