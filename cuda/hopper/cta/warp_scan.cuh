// Running totals over the lanes of a warp.
#pragma once
#include <cstdint>

#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"

// What `op` makes of the values in all lanes below; 0 in lane 0. `op` is associative, and 0 its neutral element.
template <class Op>
PTX_DEVICE uint32_t exclusive_scan(uint32_t value, Op op) {
  const uint32_t lane = ptx::thread_idx() % 32;
#pragma unroll
  for (uint32_t distance = 1; distance < 32; distance *= 2) {
    const uint32_t below = ptx::shfl_up(value, distance);
    if (lane >= distance) value = op(below, value);
  }
  const uint32_t below = ptx::shfl_up(value, 1);
  return lane == 0 ? 0 : below;
}
