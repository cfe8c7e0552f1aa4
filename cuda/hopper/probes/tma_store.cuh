// TMA stores out of one buffer, which is reused as soon as it has been read.
//
//   input      coordinates x, y, z, unused  [2, 4], then the buffer of each store  [stores, words]
//   arguments  rank (2 or 3), words of the box, stores (1 or 2)
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/sync.h"
#include "ptx/tma.h"

PTX_DEVICE void probe_tma_store_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  enter_grid();
  const uint32_t rank = params.arguments[0], words = params.arguments[1], stores = params.arguments[2];
  const uint32_t box = ptx::smem_base();
  const bool leader = ptx::thread_idx() == 0;
#pragma unroll 1
  for (uint32_t i = 0; i < stores; ++i) {
    copy_to_shared(box, params.input + 8 + i * words, words, kThreads);
    ptx::fence_proxy_async_shared();
    ptx::syncthreads();
    if (leader) {
      int32_t at[3];
      for (uint32_t j = 0; j < 3; ++j) at[j] = static_cast<int32_t>(ptx::ld_global_u32(params.input + 4 * i + j));
      if (rank == 2) {
        ptx::tma_store_2d(params.map_store, box, at[0], at[1]);
      } else {
        ptx::tma_store_3d(params.map_store, box, at[0], at[1], at[2]);
      }
      ptx::bulk_commit_group();
      ptx::bulk_wait_group_read<0>();
    }
    ptx::syncthreads();
  }
  if (leader) {
    ptx::bulk_wait_group<1>();
    ptx::bulk_wait_group<0>();
  }
}
