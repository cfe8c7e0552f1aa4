// Two warps hand words over, one round per phase of two mbarriers.
//
//   arguments  rounds
//   output     the word that lane ^ 5 of warp 0 wrote, the round  [rounds, 32, 2]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"

// The word that a lane hands over in a round.
constexpr uint32_t handed_over(uint32_t round, uint32_t lane) { return 1000 * round + lane; }

PTX_DEVICE void probe_mbarrier_kernel(const ProbeParams& params) {
  enter_grid();
  const uint32_t sWords = ptx::smem_base();
  const uint32_t full = sWords + 128, empty = full + 8, fresh = full + 16;
  const uint32_t lane = ptx::thread_idx() % 32;
  if (ptx::thread_idx() == 0) {
    ptx::mbarrier_init(full, 32);
    ptx::mbarrier_init(empty, 32);
    ptx::mbarrier_init(fresh, 1);
  }
  ptx::syncthreads();
  ptx::mbarrier_wait(fresh, 1);

  const bool writes = ptx::thread_idx() < 32;
#pragma unroll 1
  for (uint32_t round = 0; round < params.arguments[0]; ++round) {
    const uint32_t parity = round % 2;
    if (writes) {
      ptx::mbarrier_wait(empty, parity ^ 1);
      ptx::sts_u32(sWords + 4 * lane, handed_over(round, lane));
      ptx::mbarrier_arrive(full);
    } else {
      ptx::mbarrier_wait(full, parity);
      const uint32_t word = ptx::lds_u32(sWords + 4 * (lane ^ 5));
      ptx::mbarrier_arrive(empty);
      ptx::stg_v2_u32(params.output + 2 * (32 * round + lane), word, round);
    }
  }
}
