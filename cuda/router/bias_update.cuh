// Balancing without a loss: the bias of an expert with too many tokens falls, that of one with too few rises.
//
//   bias[e] += speed * sign(mean - counts[e])        max_vio = (largest count - mean) / mean
//
//   counts uint32 [experts] · bias FP32 [experts] · max_vio FP32 [1]
//
// The sign is that of sum(counts) - counts[e] * experts: integers, so that it is exact and 0 at the mean.
//
// Schedule: one CTA, a thread for every kThreads-th expert; every warp finds the sum and the largest count for itself.
#pragma once
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "router/params.h"

namespace router {

struct ExpertLoads {
  uint64_t total;
  uint32_t largest;
};

PTX_DEVICE ExpertLoads sum_loads(const BiasUpdateParams& params) {
  ExpertLoads mine = {0, 0};
  for (uint32_t e = ptx::thread_idx() % 32; e < params.experts; e += 32) {
    const uint32_t count = ptx::ldg_u32(params.counts + e);
    mine.total += count;
    mine.largest = count > mine.largest ? count : mine.largest;
  }
  // redux.sync adds 32 bits; 16 of them from every lane cannot overflow.
  uint64_t total = 0;
#pragma unroll
  for (uint32_t shift = 0; shift < 64; shift += 16) {
    total += static_cast<uint64_t>(ptx::reduce_add_u32(static_cast<uint32_t>(mine.total >> shift) & 0xffff)) << shift;
  }
  return {total, ptx::reduce_max_u32(mine.largest)};
}

template <class Config>
PTX_DEVICE void bias_update_kernel(const BiasUpdateParams& params) {
  enter_grid();
  const ExpertLoads loads = sum_loads(params);
  if (ptx::thread_idx() == 0) {
    const uint64_t excess = static_cast<uint64_t>(loads.largest) * params.experts - loads.total;
    const float max_vio = static_cast<float>(excess) / static_cast<float>(loads.total);
    ptx::stg_f32(params.max_vio, loads.total == 0 ? 0.0f : max_vio);
  }
  for (uint32_t e = ptx::thread_idx(); e < params.experts; e += Config::kThreads) {
    const uint64_t load = static_cast<uint64_t>(ptx::ldg_u32(params.counts + e)) * params.experts;
    if (load == loads.total) continue;
    const float bias = ptx::ld_global_f32(params.bias + e);
    ptx::stg_f32(params.bias + e, load < loads.total ? bias + params.speed : bias - params.speed);
  }
}

}  // namespace router
