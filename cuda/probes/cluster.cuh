// Two CTAs hand words over through global memory: first across the cluster barrier, then across remote arrivals on
// mbarriers, two phases of them. Every thread of both CTAs arrives on both CTAs' mbarriers.
//
//   output  rank, and the words read after the cluster barrier, after phase 0 and after phase 1  [grid, 64, 4], then
//           the words handed over  [grid, 3, 64, 2]
#pragma once
#include "probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"

PTX_DEVICE void probe_cluster_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  const uint32_t thread = ptx::thread_idx(), block = ptx::block_idx();
  const uint32_t bar = ptx::smem_base();
  uint32_t* words = params.output + ptx::grid_dim() * kThreads * 4;
  // Words of step `step`: mine, and those of the thread opposite in the other CTA.
  const auto mine = [&](uint32_t step) { return words + ((block * 3 + step) * kThreads + thread) * 2; };
  const auto theirs = [&](uint32_t step) {
    return words + (((block ^ 1) * 3 + step) * kThreads + (kThreads - 1 - thread)) * 2;
  };
  if (thread == 0) {
    ptx::mbarrier_init(bar, 2 * kThreads);
    ptx::fence_mbarrier_init();
  }
  ptx::stg_v2_u32(mine(0), block, thread);
  ptx::cluster_arrive();
  ptx::cluster_wait();

  uint32_t seen[3];
  seen[0] = ptx::ld_global_u32(theirs(0));
#pragma unroll 1
  for (uint32_t step = 1; step < 3; ++step) {
    ptx::stg_v2_u32(mine(step), 10 * step + block, thread);
    for (uint32_t rank = 0; rank < 2; ++rank) ptx::mbarrier_arrive_cluster(bar, rank);
    ptx::mbarrier_wait_cluster(bar, step - 1);
    seen[step] = ptx::ld_global_u32(theirs(step) + (step - 1));
  }
  uint32_t* out = params.output + (block * kThreads + thread) * 4;
  ptx::stg_v2_u32(out, ptx::cluster_rank(), seen[0]);
  ptx::stg_v2_u32(out + 2, seen[1], seen[2]);
  ptx::cluster_arrive();
  ptx::cluster_wait();
}
