// Barriers of warp, warpgroup, CTA and cluster; shuffles; fences between proxies.
#pragma once
#include "ptx/target.h"

namespace ptx {

// All threads of the CTA. "bar.sync 0".
PTX_DEVICE void syncthreads() { __syncthreads(); }

// `Threads` threads meet at barrier `Id` (1..15). Template arguments, so that ptxas reserves only the ids in use.
// "barrier.cta.sync".
template <int Id, int Threads>
PTX_DEVICE void named_barrier_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
}
// Arrives without waiting. "barrier.cta.arrive".
template <int Id, int Threads>
PTX_DEVICE void named_barrier_arrive() {
  asm volatile("bar.arrive %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
}

// All lanes of the warp; orders their memory accesses. "bar.warp.sync".
PTX_DEVICE void syncwarp() { __syncwarp(); }

// True in exactly one lane, the same one at every call. "elect.sync".
PTX_DEVICE bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{ .reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p; }"
      : "=r"(elected));
  return elected != 0;
}

// The value of the lane whose index differs in `mask`. "shfl.sync.bfly".
PTX_DEVICE float shfl_xor(float value, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// The value of the lane `distance` below; a lane that has none below keeps its own. "shfl.sync.up".
PTX_DEVICE uint32_t shfl_up(uint32_t value, uint32_t distance) {
  return __shfl_up_sync(0xffffffffu, value, distance);
}

// Sum, least and greatest of the values of all lanes, in every lane. "redux.sync".
PTX_DEVICE uint32_t reduce_add_u32(uint32_t value) { return __reduce_add_sync(0xffffffffu, value); }
PTX_DEVICE uint32_t reduce_min_u32(uint32_t value) { return __reduce_min_sync(0xffffffffu, value); }
PTX_DEVICE uint32_t reduce_max_u32(uint32_t value) { return __reduce_max_sync(0xffffffffu, value); }

// All threads of the cluster; arrive releases, wait acquires. "barrier.cluster".
PTX_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
// The same without the release, which costs a fence of the whole GPU: the waiters learn of the mbarriers that this
// thread has initialised and fenced (fence_mbarrier_init), and of nothing else it did.
PTX_DEVICE void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
PTX_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The grid and those before and after it in its stream, where launches allow them to overlap ("programmatic dependent
// launch"). Waits until every grid before has ended and all it wrote can be seen; returns at once where none runs.
// "griddepcontrol.wait".
PTX_DEVICE void grid_dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// Lets the next grid start once every CTA has said so or has ended. Nothing is ordered by it.
// "griddepcontrol.launch_dependents".
PTX_DEVICE void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Makes this thread's writes to shared memory visible to TMA and wgmma. "fence.proxy.async.shared::cta".
PTX_DEVICE void fence_proxy_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace ptx
