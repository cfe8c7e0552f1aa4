// Each CTA of a pair multicasts one box into place `rank` of the CTAs in its mask.
//
//   input      coordinates x, y  [2 ranks, 2]
//   arguments  bytes of the box, mask of rank 0, mask of rank 1, words to write out
//   output     shared memory afterwards: two boxes and what follows them  [grid, words]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"
#include "ptx/tma.h"

PTX_DEVICE void probe_tma_multicast_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  enter_grid();
  const uint32_t bytes = params.arguments[0], words = params.arguments[3];
  const uint32_t sBoxes = ptx::smem_base();
  const uint32_t bar = sBoxes + 4 * words;
  const uint32_t rank = ptx::cluster_rank();
  fill_shared(sBoxes, words, kThreads);
  if (ptx::thread_idx() == 0) {
    ptx::mbarrier_init(bar, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::fence_proxy_async_shared();
  ptx::cluster_arrive();
  ptx::cluster_wait();

  if (ptx::thread_idx() == 0) {
    uint32_t boxes = 0;
    for (uint32_t from = 0; from < 2; ++from) boxes += params.arguments[1 + from] >> rank & 1;
    ptx::mbarrier_arrive_expect_tx(bar, boxes * bytes);
    const uint16_t mask = static_cast<uint16_t>(params.arguments[1 + rank]);
    if (mask != 0) {
      const int32_t x = static_cast<int32_t>(ptx::ld_global_u32(params.input + 2 * rank));
      const int32_t y = static_cast<int32_t>(ptx::ld_global_u32(params.input + 2 * rank + 1));
      ptx::tma_load_2d_multicast(params.map_load[0], sBoxes + rank * bytes, bar, x, y, mask);
    }
  }
  ptx::mbarrier_wait(bar, 0);
  copy_from_shared(params.output + static_cast<uint64_t>(ptx::cta_idx()) * words, sBoxes, words, kThreads);
  // No CTA may exit before its peer's box has landed in it.
  ptx::cluster_arrive();
  ptx::cluster_wait();
}
