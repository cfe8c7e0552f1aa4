// Where the threads of a warpgroup, a CTA or a cluster meet.
#pragma once
#include <cstdint>

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

// All threads of the CTA, or of both CTAs of a cluster.
template <class Config>
PTX_DEVICE void cluster_sync() {
  if constexpr (Config::kCluster == 1) {
    ptx::syncthreads();
  } else {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
}
