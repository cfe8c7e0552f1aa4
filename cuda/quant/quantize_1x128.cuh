// BF16 -> E4M3 with one scale per 1x128 block: activations, gradients.
//
//   sf[m, g] = scale(amax of the finite elements of x[m, g])      q[m, k] = e4m3(x[m, k] * multiplier(m, g))
//
//   x BF16 [m, k] · q E4M3 [m, k] · sf FP32, [m, k/128] or [k/128, m] by its strides
//
// Schedule: sixteen lanes hold one block, eight elements each; one 16-byte load, four shuffles, one 8-byte store.
#pragma once
#include "hopper/cta/pieces.cuh"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/params.h"
#include "quant/quantize_row.cuh"
#include "quant/scale.h"

namespace quant {

template <class Config>
PTX_DEVICE void quantize_1x128_kernel(const Quantize1x128Params& params) {
  constexpr uint32_t kBlocksPerCta = Config::kThreads / kLanesPerRow;
  const uint32_t thread = ptx::thread_idx();
  const uint64_t block = static_cast<uint64_t>(ptx::cta_idx()) * kBlocksPerCta + thread / kLanesPerRow;
  const bool exists = block < static_cast<uint64_t>(params.m) * params.k_blocks;
  const uint64_t row = exists ? block / params.k_blocks : 0;
  const uint64_t g = exists ? block % params.k_blocks : 0;
  const uint64_t column = g * kQuantizeBlock + thread % kLanesPerRow * kPieceElements;

  Piece x = {};
  if (exists) x = load_bf16_piece(params.x + row * params.x_pitch + column);
  const BlockScale scale = scale_of_block(x, params.scale_format);
  if (!exists) return;
  float* gSf = params.sf + row * params.sf_row_stride + g * params.sf_group_stride;
  store_block(params.q + row * params.q_pitch + column, gSf, x, scale, params.error_words);
}

}  // namespace quant
