// Each CTA of a pair copies words of its shared memory, which its threads have written, into a CTA of the pair. Then it
// overwrites them: who has waited for a barrier of the peer, here across the cluster, knows that they were read.
//
//   input      what is copied  [2 ranks, words]
//   arguments  words; offsets of the source and the destination in bytes; rank of the target, exclusive-or the CTA's own;
//              bytes that each CTA expects; 1: fence between the stores and the copy; words to write out
//   output     shared memory afterwards, the source overwritten  [grid, words]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"
#include "ptx/tma.h"

PTX_DEVICE void probe_tma_copy_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  enter_grid();
  const uint32_t words = params.arguments[0], source = params.arguments[1], target = params.arguments[2];
  const uint32_t peer = params.arguments[3], expected = params.arguments[4], fence = params.arguments[5];
  const uint32_t dumped = params.arguments[6];
  const uint32_t smem = ptx::smem_base(), bar = smem + 4 * dumped;
  const uint32_t rank = ptx::cluster_rank();
  if (ptx::thread_idx() == 0) {
    ptx::mbarrier_init(bar, 1);
    ptx::fence_mbarrier_init();
  }
  fill_shared(smem, dumped, kThreads);
  ptx::syncthreads();
  copy_to_shared(smem + source / 16 * 16, params.input + rank * words, words, kThreads);
  if (fence != 0) ptx::fence_proxy_async_shared();
  ptx::cluster_arrive();
  ptx::cluster_wait();

  if (ptx::thread_idx() == 0) {
    ptx::bulk_copy_to_cta(smem + target, bar, smem + source, 4 * words, rank ^ peer);
    ptx::mbarrier_arrive_expect_tx(bar, expected);
  }
  ptx::mbarrier_wait(bar, 0);
  ptx::cluster_arrive();
  ptx::cluster_wait();
  fill_shared(smem + source / 16 * 16, words, kThreads);
  ptx::syncthreads();
  copy_from_shared(params.output + static_cast<uint64_t>(ptx::cta_idx()) * dumped, smem, dumped, kThreads);
}
