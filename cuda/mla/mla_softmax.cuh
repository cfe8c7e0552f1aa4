// The softmax of attention, block by block: scores in, weights out, the running state of a thread's two rows.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/tile/fragment.h"
#include "mla/mla_state.cuh"
#include "ptx/convert.h"
#include "ptx/sync.h"
#include "ptx/target.h"

namespace mla {

// Of the rows fragment_row(thread) and 8 below.
struct MlaRows {
  float m[2] = {kMlaNoKey, kMlaNoKey};  // the same in the four threads of a row
  float l[2] = {0, 0};                  // over the thread's own columns
  uint32_t visible[2];                  // keys that the row sees
};

// Scores of keys that a row does not see become -Inf. `first_key`: of the block.
template <int Registers>
PTX_DEVICE void mask_scores(float (&rS)[Registers], const MlaRows& rows, uint32_t first_key) {
  const uint32_t column = first_key + fragment_column(ptx::thread_idx() % 128);
#pragma unroll
  for (uint32_t i = 0; i < Registers; ++i) {
    if (column + 8 * (i / 4) + i % 2 >= rows.visible[i % 4 / 2]) rS[i] = kMlaNoKey;
  }
}

// The greatest score of row `r` of the block, in all four threads of the row.
template <int Registers>
PTX_DEVICE float block_max(const float (&rS)[Registers], int r) {
  float greatest = kMlaNoKey;
#pragma unroll
  for (int i = 0; i < Registers; i += 4) {
    greatest = ptx::max_f32(greatest, ptx::max_f32(rS[i + 2 * r], rS[i + 2 * r + 1]));
  }
  greatest = ptx::max_f32(greatest, ptx::shfl_xor(greatest, 1));
  return ptx::max_f32(greatest, ptx::shfl_xor(greatest, 2));
}

// rS <- 2^(score - m), with the block's keys in m; returns in `rescale` what earlier sums are worth now. As long as a row
// has seen no key, m is -Inf, and 0 stands in for it: 2^(-Inf - 0) = 0 where -Inf + Inf would be NaN.
template <int Registers>
PTX_DEVICE void softmax_block(float (&rS)[Registers], MlaRows& rows, float scale_log2, float (&rescale)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float m = ptx::max_f32(rows.m[r], block_max(rS, r) * scale_log2);
    const float base = m == kMlaNoKey ? 0.0f : m;
    rescale[r] = ptx::ex2_approx(rows.m[r] - base);
    rows.m[r] = m;
    rows.l[r] *= rescale[r];
#pragma unroll
    for (int i = 0; i < Registers; i += 4) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& s = rS[i + 2 * r + c];
        s = ptx::ex2_approx(ptx::fma_rn(s, scale_log2, -base));
        rows.l[r] += s;
      }
    }
  }
}

// Earlier sums of a thread's two rows, in the units of the new m. Most blocks change no m of the warp's rows, and a product
// with 1 no bit.
template <int Registers>
PTX_DEVICE void scale_rows(float (&rO)[Registers], const float (&factor)[2]) {
  if (ptx::reduce_max_u32(factor[0] != 1.0f || factor[1] != 1.0f) == 0) return;
#pragma unroll
  for (int i = 0; i < Registers; ++i) rO[i] *= factor[i % 4 / 2];
}

// l of row `r` over all columns, in all four threads of the row.
PTX_DEVICE float row_sum(const MlaRows& rows, int r) {
  const float pair = rows.l[r] + ptx::shfl_xor(rows.l[r], 1);
  return pair + ptx::shfl_xor(pair, 2);
}

}  // namespace mla
