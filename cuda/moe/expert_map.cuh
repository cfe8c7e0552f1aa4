// What the three kernels of the expert map share. From top-k ids to rows sorted by expert, in three launches:
//
//   count    block_counts[g, b] = routes of block b whose group is g                 row_route = -1
//   scan     block_counts[g, b] = routes of group g in the blocks before b           demand, counts
//   scatter  row of a route = start of its expert + routes of the expert before it   row_route, route_row, offsets
//
// A route is token * top_k + k, a block is as many consecutive routes as a CTA has threads, a group is an expert or, last,
// all ids that are none. Nothing is added atomically: a row depends on the ids alone.
#pragma once
#include <cstdint>

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

PTX_DEVICE uint32_t load_group(const ExpertMapParams& params, uint32_t route) {
  if (route >= params.routes) return kNoGroup;
  const int32_t id = load_index(params.ids, route / params.top_k, route % params.top_k);
  return group_of_id(static_cast<uint32_t>(id), params.experts);
}

struct BlockRank {
  uint32_t before, total;  // routes of the block in the same group: those before this one, all
};

// sGroups: the groups of the block. A read of the whole block by every thread is a broadcast.
template <class Config>
PTX_DEVICE BlockRank rank_in_block(uint32_t sGroups, uint32_t group) {
  const uint32_t thread = ptx::thread_idx();
  BlockRank rank = {};
#pragma unroll 8
  for (uint32_t i = 0; i < Config::kThreads; i += 4) {
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

}  // namespace moe
