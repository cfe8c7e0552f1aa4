// The way of an accumulator of wgmma out of the registers of a warpgroup, into shared memory and from there.
#pragma once
#include <cstdint>

#include "hopper/tile/fragment.h"
#include "hopper/tile/swizzle.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"

// Rounded to BF16, in pairs of neighbouring columns: four registers for 16 columns, in the order of stmatrix.x4 and of A of
// a wgmma.
template <int Registers>
PTX_DEVICE void pack_fragment_bf16(uint32_t (&rPairs)[Registers / 8][4], const float (&rD)[Registers]) {
#pragma unroll
  for (int r = 0; r < Registers; r += 2) rPairs[r / 8][r % 8 / 2] = ptx::cvt_bf16x2(rD[r + 1], rD[r]);
}

// For a fragment that somebody else needs while the tensor core owns it.
template <int Steps>
PTX_DEVICE void copy_fragment(uint32_t (&rCopy)[Steps][4], const uint32_t (&rPairs)[Steps][4]) {
#pragma unroll
  for (int i = 0; i < 4 * Steps; ++i) rCopy[i / 4][i % 4] = ptx::copy_register(rPairs[i / 4][i % 4]);
}

// sD <- rPairs: 64 rows x 16 `Steps` columns of BF16, in chunks of `Span` bytes of columns, swizzled as TMA and wgmma expect
// them. `row_of(chunk, row)` gives the address of a row of a chunk; `thread` is one of the warpgroup.
template <int Span, int Steps, class RowOf>
PTX_DEVICE void store_fragment_bf16(uint32_t thread, const uint32_t (&rPairs)[Steps][4], RowOf row_of) {
  const uint32_t lane = thread % 32;
  const uint32_t row = 16 * (thread / 32) + stmatrix_row(lane);
#pragma unroll
  for (int step = 0; step < Steps; ++step) {
    const uint32_t byte = step * 32;
    const uint32_t sD = row_of(byte / Span, row) + byte % Span + stmatrix_column(lane) * 2;
    const uint32_t(&pairs)[4] = rPairs[step];
    ptx::stmatrix_x4(swizzle<Span>(sD), pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

// The same, rounding on the way.
template <int Span, int Registers, class RowOf>
PTX_DEVICE void store_fragment_bf16(uint32_t thread, const float (&rD)[Registers], RowOf row_of) {
  uint32_t rPairs[Registers / 8][4];
  pack_fragment_bf16(rPairs, rD);
  store_fragment_bf16<Span>(thread, rPairs, row_of);
}

// gD <- sD, as store_fragment_bf16 has put it there: a warp the 16 rows that it has stored itself, 16 bytes a lane. For rows that
// TMA would not stop behind. `out_of(row)` is where a row's columns begin, or null.
template <int Span, uint32_t Columns, class RowOf, class OutOf>
PTX_DEVICE void copy_fragment_rows(uint32_t thread, RowOf row_of, OutOf out_of) {
  constexpr uint32_t kPieces = Columns * 2 / 16;  // of a row
  ptx::syncwarp();
#pragma unroll
  for (uint32_t i = thread % 32; i < 16 * kPieces; i += 32) {
    const uint32_t row = thread / 32 * 16 + i / kPieces, byte = i % kPieces * 16;
    uint16_t* gRow = out_of(row);
    if (gRow == nullptr) continue;
    const uint32_t sPiece = row_of(byte / Span, row) + byte % Span;
    ptx::stg_v4_u32(gRow + byte / 2, ptx::lds_v4_u32(swizzle<Span>(sPiece)));
  }
}
