// Where the threads of a warpgroup, a CTA or a cluster meet, and what they tell each other about shared buffers.
#pragma once
#include <cstdint>

#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"

// The 128 threads of one math warpgroup. The ids are constants, so that ptxas reserves only these two.
PTX_DEVICE void warpgroup_sync(uint32_t warpgroup) {
  if (warpgroup == 0) {
    ptx::named_barrier_sync<1, 128>();
  } else {
    ptx::named_barrier_sync<2, 128>();
  }
}

// The threads of two math warpgroups that share what they read.
PTX_DEVICE void both_warpgroups_sync() { ptx::named_barrier_sync<3, 256>(); }

// What the threads of this warpgroup have written to shared memory is there for TMA and wgmma, whichever of them asks.
PTX_DEVICE void warpgroup_fence_async(uint32_t warpgroup) {
  ptx::fence_proxy_async_shared();
  warpgroup_sync(warpgroup);
}

// The mbarriers that a thread has initialised and fenced are ready for all threads of the CTA, or of both CTAs of a
// cluster. In a cluster nothing else is ordered: all else that the CTAs tell each other goes through those mbarriers.
template <class Config>
PTX_DEVICE void enter_cluster() {
  if constexpr (Config::kCluster == 1) {
    ptx::syncthreads();
  } else {
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait();
  }
}

// A CTA outlives its peer's last arrival on its mbarriers, and the last copy to its peer. This arrive releases: it must
// not overtake those.
template <class Config>
PTX_DEVICE void leave_cluster() {
  if constexpr (Config::kCluster > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
}

// One arrival per warp, after all its lanes are done.
PTX_DEVICE void warp_arrive(uint32_t bar) {
  ptx::syncwarp();
  if (ptx::thread_idx() % 32 == 0) ptx::mbarrier_arrive(bar);
}

// Tells every producer that writes a buffer of this CTA that this warp has read it.
template <int Cluster>
PTX_DEVICE void warp_release(uint32_t bar) {
  if constexpr (Cluster == 1) {
    warp_arrive(bar);
  } else {
    ptx::syncwarp();
    const uint32_t lane = ptx::thread_idx() % 32;
    if (lane < Cluster) ptx::mbarrier_arrive_cluster(bar, lane);
  }
}

// The producer's side: waits until the warps of every CTA that reads the buffer have released it.
template <int Cluster>
PTX_DEVICE void await_release(uint32_t bar, uint32_t parity) {
  if constexpr (Cluster == 1) {
    ptx::mbarrier_wait(bar, parity);
  } else {
    ptx::mbarrier_wait_cluster(bar, parity);
  }
}
