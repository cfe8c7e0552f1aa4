// The best of a token's experts, found by a warp. Comparisons are made on keys: integers in the order of the floats, 0
// for what is out, so that redux.sync finds the best of 32 lanes at once. Lane l holds experts l, l + 32, ....
#pragma once
#include <bit>
#include <cstdint>

#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "router/params.h"

namespace router {

// The greater a float, the greater its key; 0 for NaN.
PTX_DEVICE uint32_t order_key(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return 0;
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
PTX_DEVICE float value_of_key(uint32_t key) { return std::bit_cast<float>(key >> 31 != 0 ? key & 0x7fffffffu : ~key); }

PTX_DEVICE uint32_t gate_expert(uint32_t row) { return ptx::thread_idx() % 32 + 32 * row; }

// rKey: what may still be chosen of a lane's experts.
template <uint32_t kRows>
using GateKeys = uint32_t[kRows];

// The lowest index among the experts with the best key, and that key (0: there is none) in every lane.
struct Best {
  uint32_t key, expert;
};

template <uint32_t kRows, class Allowed>
PTX_DEVICE Best best_of(const GateKeys<kRows>& rKey, Allowed allowed) {
  Best mine = {0, UINT32_MAX};
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    if (rKey[i] > mine.key && allowed(i)) mine = {rKey[i], gate_expert(i)};
  }
  const uint32_t key = ptx::reduce_max_u32(mine.key);
  return {key, ptx::reduce_min_u32(mine.key == key ? mine.expert : UINT32_MAX)};
}

// The best of rKey, which leaves it; -1: there is none.
template <uint32_t kRows>
PTX_DEVICE int32_t take_best(GateKeys<kRows>& rKey) {
  const Best best = best_of(rKey, [](uint32_t) { return true; });
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    if (gate_expert(i) == best.expert) rKey[i] = 0;
  }
  return best.key == 0 ? -1 : static_cast<int32_t>(best.expert);
}

}  // namespace router
