// One value of neighbouring lanes.
#pragma once
#include <cstdint>

#include "ptx/sync.h"
#include "ptx/target.h"

// What `op` makes of the values of `Lanes` neighbouring lanes, in all of them; every lane of the warp comes here. Always
// in the same order, the farthest lanes first: a sum has the same bits in every lane, and on every machine.
template <uint32_t Lanes, class Op>
PTX_DEVICE float warp_reduce(float value, Op op) {
#pragma unroll
  for (uint32_t mask = Lanes / 2; mask > 0; mask /= 2) value = op(value, ptx::shfl_xor(value, mask));
  return value;
}
