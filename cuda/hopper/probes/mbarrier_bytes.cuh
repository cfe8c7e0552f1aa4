// One mbarrier that counts two arrivals and the bytes of TMA loads. In phase 0 the load comes before its expectation,
// in phase 1 the expectation before its two loads.
//
//   arguments  bytes of the box
//   output     the boxes at rows 0 (loaded in phase 0), 8 and 16 (in phase 1)  [3, bytes / 4]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"
#include "ptx/tma.h"

PTX_DEVICE void probe_mbarrier_bytes_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  constexpr int32_t kBoxRows = 8;
  enter_grid();
  const uint32_t bytes = params.arguments[0];
  const uint32_t boxes = ptx::smem_base();
  const uint32_t other = boxes + 3 * bytes;  // where a load goes that only takes time
  const uint32_t bar = other + bytes, other_bar = bar + 8;
  const bool leader = ptx::thread_idx() == 0, second = ptx::thread_idx() == 32;
  if (leader) {
    ptx::mbarrier_init(bar, 2);
    ptx::mbarrier_init(other_bar, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::syncthreads();

  if (leader) {
    ptx::tma_load_2d(params.map_load[0], boxes, bar, 0, 0);
    ptx::mbarrier_arrive_expect_tx(other_bar, bytes);
    ptx::tma_load_2d(params.map_load[0], other, other_bar, 0, 0);
    ptx::mbarrier_wait(other_bar, 0);
    ptx::mbarrier_arrive_expect_tx(bar, bytes);
  }
  if (second) ptx::mbarrier_arrive(bar);
  ptx::mbarrier_wait(bar, 0);
  copy_from_shared(params.output, boxes, bytes / 4, kThreads);

  if (leader) {
    ptx::mbarrier_arrive_expect_tx(bar, 2 * bytes);
    ptx::tma_load_2d(params.map_load[0], boxes + bytes, bar, 0, kBoxRows);
    ptx::tma_load_2d(params.map_load[0], boxes + 2 * bytes, bar, 0, 2 * kBoxRows);
  }
  if (second) ptx::mbarrier_arrive(bar);
  ptx::mbarrier_wait(bar, 1);
  copy_from_shared(params.output + bytes / 4, boxes + bytes, bytes / 2, kThreads);
}
