// A position in a ring of buffers in shared memory.
#pragma once
#include <cstdint>

// `stage` is the buffer; `phase` the parity of the lap, which is what an mbarrier's waiters name.
template <int Stages>
struct Ring {
  uint32_t stage = 0;
  uint32_t phase = 0;

  constexpr void advance() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};
