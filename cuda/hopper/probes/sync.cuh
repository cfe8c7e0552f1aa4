// Special registers, collectives of a warp, barriers of a CTA.
//
//   output  per thread  [grid, 128, 42]:
//           0 thread_idx, cta_idx, grid_dim, warp_uniform(7 thread + 3), elect_one twice, two words unused
//           8 shfl_xor of 1.5 thread, by every mask of 5 bits
//          40 what the thread opposite handed over at a named barrier, and at syncthreads
#pragma once
#include <bit>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/sync.h"

// Warps 0 and 1: the first writes and arrives, the second waits and reads, and lets the first go on. Warps 2 and 3 just
// meet. Returns the word of the lane opposite in the partner's warp (warp 0: its own last word).
PTX_DEVICE uint32_t probe_named_barriers(uint32_t sWords) {
  constexpr uint32_t kRounds = 3;
  const uint32_t thread = ptx::thread_idx(), warp = thread / 32;
  const uint32_t mine = sWords + 4 * thread, theirs = sWords + 4 * (thread ^ 63);
  uint32_t word = 0;
#pragma unroll 1
  for (uint32_t round = 0; round < kRounds; ++round) {
    const uint32_t value = 1000 * round + thread;
    if (warp == 0) {
      ptx::sts_u32(mine, value);
      word = value;
      ptx::named_barrier_arrive<1, 64>();
      ptx::named_barrier_sync<2, 64>();
    } else if (warp == 1) {
      ptx::named_barrier_sync<1, 64>();
      word = ptx::lds_u32(theirs);
      ptx::named_barrier_arrive<2, 64>();
    } else {
      ptx::sts_u32(mine, value);
      ptx::named_barrier_sync<3, 64>();
      word = ptx::lds_u32(theirs);
      ptx::named_barrier_sync<3, 64>();
    }
  }
  return word;
}

PTX_DEVICE void probe_sync_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 128, kWords = 42;
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint32_t sWords = ptx::smem_base();
  uint32_t* out = params.output + (ptx::cta_idx() * kThreads + thread) * kWords;
  ptx::stg_v2_u32(out, thread, ptx::cta_idx());
  ptx::stg_v2_u32(out + 2, ptx::grid_dim(), ptx::warp_uniform(7 * thread + 3));
  const bool elected = ptx::elect_one();
  const bool again = ptx::elect_one();
  ptx::stg_v2_u32(out + 4, elected, again);

  const float value = 1.5f * static_cast<float>(thread);
#pragma unroll 1
  for (uint32_t mask = 0; mask < 32; mask += 2) {
    const float even = ptx::shfl_xor(value, mask);
    const float odd = ptx::shfl_xor(value, mask + 1);
    ptx::stg_v2_u32(out + 8 + mask, std::bit_cast<uint32_t>(even), std::bit_cast<uint32_t>(odd));
  }

  const uint32_t named = probe_named_barriers(sWords);
  const uint32_t sAll = sWords + 4 * kThreads;
  ptx::sts_u32(sAll + 4 * thread, 5000 + thread);
  ptx::syncthreads();
  ptx::stg_v2_u32(out + 40, named, ptx::lds_u32(sAll + 4 * (kThreads - 1 - thread)));
}
