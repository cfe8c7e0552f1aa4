// BF16 -> E4M3 with one scale per 1x128 block: activations, gradients.
//
//   sf[m, g] = scale(amax of the finite elements of x[m, g])      q[m, k] = e4m3(x[m, k] * multiplier(m, g))
//
//   x BF16 [m, k] · q E4M3 [m, k] · sf FP32, [m, ceil(k/128)] or [ceil(k/128), m] by its strides
//
// Schedule: sixteen lanes hold one block, eight elements each; one 16-byte load, four shuffles, one 8-byte store. They take
// the same block of several rows at once, so that loads are under way while others are worked on.
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/params.h"
#include "quant/quantize_row.cuh"
#include "quant/scale.h"

namespace quant {

template <class Config>
PTX_DEVICE void quantize_1x128_kernel(const Quantize1x128Params& params) {
  constexpr uint32_t kRows = Config::kRows;  // of a lane
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint32_t block = ptx::cta_idx() * (Config::kThreads / kLanesPerRow) + thread / kLanesPerRow;
  const uint32_t blocks = quantize_blocks(params.k);
  const uint32_t g = block % blocks;
  const uint64_t first = static_cast<uint64_t>(block / blocks) * kRows;
  const uint64_t column = static_cast<uint64_t>(g) * kQuantizeBlock + thread % kLanesPerRow * kPieceElements;
  const uint32_t rows = column < params.k ? params.m : 0;  // that have elements of this lane

  ptx::U32x4 x[kRows];
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    x[i] = ptx::ldg_v4_u32_if(first + i < rows, params.x + (first + i) * params.x_pitch + column);
  }
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    const uint64_t row = first + i;
    const Piece piece = bf16_piece(x[i]);
    const BlockScale scale = scale_of_block(piece, params.rule);
    if (row >= rows) continue;
    float* gSf = params.sf + row * params.sf_row_stride + g * params.sf_group_stride;
    store_block(params.q + row * params.q_pitch + column, gSf, piece, scale, params.error_words);
  }
}

}  // namespace quant
