// One TMA load per CTA.
//
//   input      coordinates x, y, z, unused  [grid, 4]
//   arguments  rank (2 or 3), bytes of the box, words to write out, bytes before the box
//   output     shared memory afterwards: what is before the box, the box and what follows it  [grid, words]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"
#include "ptx/tma.h"

PTX_DEVICE void probe_tma_load_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  enter_grid();
  const uint32_t rank = params.arguments[0], bytes = params.arguments[1], words = params.arguments[2];
  const uint32_t base = ptx::smem_base();
  const uint32_t box = base + params.arguments[3];
  const uint32_t bar = base + 4 * words;
  const bool leader = ptx::thread_idx() == 0;
  fill_shared(base, words, kThreads);
  if (leader) {
    ptx::prefetch_tensormap(params.map_load[0]);
    ptx::mbarrier_init(bar, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::fence_proxy_async_shared();
  ptx::syncthreads();

  if (leader) {
    int32_t at[3];
    for (uint32_t i = 0; i < 3; ++i) {
      at[i] = static_cast<int32_t>(ptx::ld_global_u32(params.input + 4 * ptx::cta_idx() + i));
    }
    ptx::mbarrier_arrive_expect_tx(bar, bytes);
    if (rank == 2) {
      ptx::tma_load_2d(params.map_load[0], box, bar, at[0], at[1]);
    } else {
      ptx::tma_load_3d(params.map_load[0], box, bar, at[0], at[1], at[2]);
    }
  }
  ptx::mbarrier_wait(bar, 0);
  copy_from_shared(params.output + static_cast<uint64_t>(ptx::cta_idx()) * words, base, words, kThreads);
}
