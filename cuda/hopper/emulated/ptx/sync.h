// Barriers of warp, warpgroup, CTA and cluster; shuffles; fences between proxies.
#pragma once
#include <bit>

#include "ptx/target.h"

namespace ptx {

PTX_DEVICE void syncthreads(Where where = Where::here()) {
  if (emu::traced("syncthreads")) return;
  emu::named_barrier(0, 0, true, where);
}

template <int Id, int Threads>
PTX_DEVICE void named_barrier_sync(Where where = Where::here()) {
  if (emu::traced("named_barrier_sync", Id, Threads)) return;
  emu::named_barrier(Id, Threads, true, where);
}
template <int Id, int Threads>
PTX_DEVICE void named_barrier_arrive(Where where = Where::here()) {
  if (emu::traced("named_barrier_arrive", Id, Threads)) return;
  emu::named_barrier(Id, Threads, false, where);
}

PTX_DEVICE void syncwarp(Where where = Where::here()) {
  if (emu::traced("syncwarp")) return;
  emu::sync_warp(where);
}

PTX_DEVICE bool elect_one(Where where = Where::here()) { return emu::elect(where); }

PTX_DEVICE float shfl_xor(float value, uint32_t mask, Where where = Where::here()) {
  const uint32_t source = emu::thread_idx() % 32 ^ mask;
  return std::bit_cast<float>(emu::shuffle(std::bit_cast<uint32_t>(value), source, "shfl_xor", where));
}

PTX_DEVICE uint32_t shfl_up(uint32_t value, uint32_t distance, Where where = Where::here()) {
  const uint32_t lane = emu::thread_idx() % 32;
  return emu::shuffle(value, lane < distance ? lane : lane - distance, "shfl_up", where);
}

PTX_DEVICE uint32_t reduce_add_u32(uint32_t value, Where where = Where::here()) {
  return emu::reduce(emu::Reduction::kAdd, value, where);
}
PTX_DEVICE uint32_t reduce_min_u32(uint32_t value, Where where = Where::here()) {
  return emu::reduce(emu::Reduction::kMin, value, where);
}
PTX_DEVICE uint32_t reduce_max_u32(uint32_t value, Where where = Where::here()) {
  return emu::reduce(emu::Reduction::kMax, value, where);
}

PTX_DEVICE void cluster_arrive(Where where = Where::here()) {
  if (emu::traced("cluster_arrive")) return;
  emu::cluster_arrive(false, where);
}
PTX_DEVICE void cluster_arrive_relaxed(Where where = Where::here()) {
  if (emu::traced("cluster_arrive_relaxed")) return;
  emu::cluster_arrive(true, where);
}
PTX_DEVICE void cluster_wait(Where where = Where::here()) {
  if (emu::traced("cluster_wait")) return;
  emu::cluster_wait(where);
}

PTX_DEVICE void grid_dependency_wait(Where where = Where::here()) {
  if (emu::traced("grid_dependency_wait")) return;
  emu::grid_dependency_wait(where);
}
PTX_DEVICE void grid_launch_dependents(Where where = Where::here()) {
  if (emu::traced("grid_launch_dependents")) return;
  emu::grid_launch_dependents(where);
}

PTX_DEVICE void fence_proxy_async_shared(Where where = Where::here()) {
  if (emu::traced("fence_proxy_async_shared")) return;
  emu::fence_proxy_async(where);
}

}  // namespace ptx
