// First launch of the expert map (expert_map.cuh): every block counts its routes by group.
//
//   block_counts[g, b] = routes of block b whose group is g      row_route[r] = -1 for every row
//
//   ids int32 [routes] · block_counts uint32 [experts + 1, blocks] · row_route int32 [rows]
//
// Schedule: every thread compares its group with the 255 others of the block; the first route of a group tells how many
// there are. More CTAs than blocks only help to clear the rows.
#pragma once
#include "experts.h"
#include "moe/expert_map.cuh"

namespace moe {

constexpr uint32_t expert_map_count_threads = expert_map_threads;
// Groups [256], routes of each group [MAX_EXPERTS + 1].
constexpr uint32_t expert_map_count_smem_bytes = (expert_map_threads + MAX_EXPERTS + 1) * sizeof(uint32_t);

PTX_DEVICE void clear_rows(const ExpertMapParams& params) {
  const uint64_t step = static_cast<uint64_t>(ptx::grid_dim()) * expert_map_threads;
  uint64_t row = static_cast<uint64_t>(ptx::cta_idx()) * expert_map_threads + ptx::thread_idx();
  for (; row < params.rows; row += step) ptx::stg_u32(params.row_route + row, 0xffffffffu);
}

PTX_DEVICE void expert_map_count_kernel(const ExpertMapParams& params) {
  const uint32_t thread = ptx::thread_idx(), block = ptx::cta_idx();
  clear_rows(params);
  if (block >= params.blocks) return;

  const uint32_t sGroups = ptx::smem_base();
  const uint32_t sCounts = sGroups + expert_map_threads * sizeof(uint32_t);
  const uint32_t group = load_group(params, block * expert_map_threads + thread);
  ptx::sts_u32(sGroups + thread * sizeof(uint32_t), group);
  for (uint32_t g = thread; g <= params.experts; g += expert_map_threads) {
    ptx::sts_u32(sCounts + g * sizeof(uint32_t), 0);
  }
  ptx::syncthreads();
  if (group != kNoGroup) {
    const BlockRank rank = rank_in_block(sGroups, group);
    if (rank.before == 0) ptx::sts_u32(sCounts + group * sizeof(uint32_t), rank.total);
  }
  ptx::syncthreads();
  for (uint32_t g = thread; g <= params.experts; g += expert_map_threads) {
    uint32_t* gCount = params.block_counts + static_cast<uint64_t>(g) * params.blocks + block;
    ptx::stg_u32(gCount, ptx::lds_u32(sCounts + g * sizeof(uint32_t)));
  }
}

}  // namespace moe
