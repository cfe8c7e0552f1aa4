// Special registers and register files.
#pragma once
#include "ptx/target.h"

namespace ptx {

// Index of the thread in its CTA. PTX ISA, "Special Registers: %tid".
PTX_DEVICE uint32_t thread_idx() { return threadIdx.x; }

// Index of the CTA in the grid. "%ctaid".
PTX_DEVICE uint32_t cta_idx() { return blockIdx.x; }

// Number of CTAs in the grid. "%nctaid".
PTX_DEVICE uint32_t grid_dim() { return gridDim.x; }

// Rank of the CTA in its cluster. "%cluster_ctarank".
PTX_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The value of `value` in lane 0, in a register the compiler knows to be the same in the whole warp: role branches on
// it are uniform. "shfl.sync.idx".
PTX_DEVICE uint32_t warp_uniform(uint32_t value) { return __shfl_sync(0xffffffffu, value, 0); }

// `value` in a register of its own, which the compiler does not take for the first one. "mov.b32".
PTX_DEVICE uint32_t copy_register(uint32_t value) {
  uint32_t copy;
  asm("mov.b32 %0, %1;" : "=r"(copy) : "r"(value));
  return copy;
}

// Gives registers back to the CTA's pool, down to `Count` a thread; every warp of the warpgroup. "setmaxnreg.dec".
template <int Count>
PTX_DEVICE void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

// Takes registers from the CTA's pool, up to `Count` a thread; waits until the pool has them. "setmaxnreg.inc".
template <int Count>
PTX_DEVICE void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

}  // namespace ptx
