// One value of all threads of a CTA.
#pragma once
#include <cstdint>

#include "hopper/cta/warp_reduce.cuh"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"

// What `op` makes of the values of all `Threads` threads, in all of them; every thread comes here. Always in the same
// order: the lanes of each warp as `warp_reduce`, then warps ascending. A float for each warp at the start of shared memory,
// which nobody may overwrite before a barrier: the last threads may still be reading.
template <uint32_t Threads, class Op>
PTX_DEVICE float cta_reduce(float value, Op op) {
  const uint32_t smem = ptx::smem_base();
  const uint32_t thread = ptx::thread_idx();
  value = warp_reduce<32>(value, op);
  if (thread % 32 == 0) ptx::sts_f32(smem + thread / 32 * sizeof(float), value);
  ptx::syncthreads();
  value = ptx::lds_f32(smem);
#pragma unroll
  for (uint32_t warp = 1; warp < Threads / 32; ++warp) value = op(value, ptx::lds_f32(smem + warp * sizeof(float)));
  return value;
}
