// The way of an accumulator of wgmma out of the registers of a warpgroup.
#pragma once
#include <cstdint>

#include "hopper/tile/fragment.h"
#include "hopper/tile/swizzle.h"
#include "ptx/convert.h"
#include "ptx/smem.h"
#include "ptx/target.h"

// sD <- rD, rounded to BF16: 64 rows x 2 `Registers` columns, in chunks of `Span` bytes of columns, swizzled as TMA and
// wgmma expect them. `row_of(chunk, row)` gives the address of a row of a chunk; `thread` is one of the warpgroup.
template <int Span, int Registers, class RowOf>
PTX_DEVICE void store_fragment_bf16(uint32_t thread, const float (&rD)[Registers], RowOf row_of) {
  const uint32_t lane = thread % 32;
  const uint32_t row = 16 * (thread / 32) + stmatrix_row(lane);
#pragma unroll
  for (int r = 0; r < Registers; r += 8) {  // 16 columns
    const uint32_t byte = 2 * r * 2;
    const uint32_t sD = row_of(byte / Span, row) + byte % Span + stmatrix_column(lane) * 2;
    ptx::stmatrix_x4(swizzle<Span>(sD), ptx::cvt_bf16x2(rD[r + 1], rD[r]), ptx::cvt_bf16x2(rD[r + 3], rD[r + 2]),
                     ptx::cvt_bf16x2(rD[r + 5], rD[r + 4]), ptx::cvt_bf16x2(rD[r + 7], rD[r + 6]));
  }
}
