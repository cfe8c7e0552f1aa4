// Two CTAs hand words over: through global memory across the cluster barrier, then twice from shared memory to shared
// memory over the same bytes, which a remote arrival of every reader gives back.
//
//   output  rank, and the words read after the cluster barrier, after the first copy and after the second
//           [grid, 64, 4], then the words handed over in global memory  [grid, 64, 2]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/tma.h"

PTX_DEVICE void probe_cluster_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64, kBytes = kThreads * 4;
  enter_grid();
  const uint32_t thread = ptx::thread_idx(), cta = ptx::cta_idx(), opposite = kThreads - 1 - thread;
  const uint32_t read = ptx::smem_base(), full = read + 8;  // mbarriers: both inboxes are read; mine is full
  const uint32_t sIn = read + 16, sOut = sIn + kBytes;      // [64], [2, 64]
  if (thread == 0) {
    ptx::mbarrier_init(read, 2 * kThreads);
    ptx::mbarrier_init(full, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::cluster_arrive_relaxed();
  ptx::cluster_wait();

  uint32_t* words = params.output + ptx::grid_dim() * kThreads * 4;
  ptx::stg_v2_u32(words + (cta * kThreads + thread) * 2, cta, thread);
  ptx::cluster_arrive();
  ptx::cluster_wait();

  uint32_t seen[3];
  seen[0] = ptx::ld_global_u32(words + ((cta ^ 1) * kThreads + opposite) * 2);
#pragma unroll 1
  for (uint32_t step = 0; step < 2; ++step) {
    const uint32_t sSent = sOut + step * kBytes;
    ptx::sts_u32(sSent + 4 * thread, step == 0 ? 10 + cta : thread);
    ptx::fence_proxy_async_shared();
    for (uint32_t rank = 0; rank < 2; ++rank) ptx::mbarrier_arrive_cluster(read, rank);
    ptx::mbarrier_wait_cluster(read, step);
    if (thread == 0) {
      ptx::mbarrier_arrive_expect_tx(full, kBytes);
      ptx::bulk_copy_to_cta(sIn, full, sSent, kBytes, ptx::cluster_rank() ^ 1);
    }
    ptx::mbarrier_wait(full, step);
    seen[step + 1] = ptx::lds_u32(sIn + 4 * opposite);
  }
  uint32_t* out = params.output + (cta * kThreads + thread) * 4;
  ptx::stg_v2_u32(out, ptx::cluster_rank(), seen[0]);
  ptx::stg_v2_u32(out + 2, seen[1], seen[2]);
  ptx::cluster_arrive();
  ptx::cluster_wait();
}
