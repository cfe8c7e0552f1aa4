// BF16 -> E4M3 with one scale per 128x128 block: weights.
//
//   sf[n', g] = scale(amax of the finite elements of the block)      q[n, k] = e4m3(x[n, k] * multiplier(n/128, g))
//
//   x BF16 [n, k] · q E4M3 [n, k] · sf FP32 [ceil(n/128), ceil(k/128)]; what lies past n and k counts as zero
//
// Schedule: one CTA per block, sixteen lanes per row, eight rows per thread in registers: x is read once.
#pragma once
#include "hopper/cta/cta_reduce.cuh"
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
struct Quantize128x128Storage {
  float amax[Config::kThreads / 32];  // of each warp
};

template <class Config>
PTX_DEVICE void quantize_128x128_kernel(const Quantize128x128Params& params) {
  constexpr uint32_t kRowsAtOnce = Config::kThreads / kLanesPerRow;
  constexpr uint32_t kPieces = kQuantizeBlock / kRowsAtOnce;
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint32_t blocks = quantize_blocks(params.k);
  const uint64_t block_n = ptx::cta_idx() / blocks;
  const uint32_t g = ptx::cta_idx() % blocks;
  const uint64_t row0 = block_n * kQuantizeBlock + thread / kLanesPerRow;
  const uint64_t column = static_cast<uint64_t>(g) * kQuantizeBlock + thread % kLanesPerRow * kPieceElements;
  const uint32_t rows = column < params.k ? params.n : 0;  // that have elements of this thread

  ptx::U32x4 x[kPieces];
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) {
    const uint64_t row = row0 + i * kRowsAtOnce;
    x[i] = ptx::ldg_v4_u32_if(row < rows, params.x + row * params.x_pitch + column);
  }
  float amax = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) amax = max_of(amax, finite_amax(bf16_piece(x[i]).x));

  const BlockScale scale = block_scale(cta_reduce<Config::kThreads>(amax, max_of), params.rule);
#pragma unroll
  for (uint32_t i = 0; i < kPieces; ++i) {
    const uint64_t row = row0 + i * kRowsAtOnce;
    if (row >= rows) continue;
    const Piece piece = bf16_piece(x[i]);
    store_piece(params.q + row * params.q_pitch + column, piece, scale);
    report_nonfinite(params.error_words, piece.x);
  }
  if (thread == 0) ptx::stg_f32(params.sf + block_n * params.sf_pitch + g, scale.scale);
}

}  // namespace quant
