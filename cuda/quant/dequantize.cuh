// E4M3 and its scales -> BF16: weights for what has no FP8 kernel, such as the absorption of kv_b_proj.
//
//   x[m, k] = bf16(q[m, k] * sf[m / scale_rows, k / 128])      the product rounded to FP32 first
//
//   q E4M3 [m, k] · sf FP32, one per 1x128 or per 128x128 by its strides · x BF16 [m, k]
//
// Schedule: sixteen elements a thread, one 16-byte load and two stores; neighbours in a row are neighbours in a warp.
#pragma once
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/params.h"
#include "quant/quantize_row.cuh"

namespace quant {

// The values of eight codes, the first of them lowest in `low`.
PTX_DEVICE Piece dequantized_piece(uint32_t low, uint32_t high, float scale) {
  const ptx::F32x2 x[] = {ptx::e4m3x2_f32(low), ptx::e4m3x2_f32(low >> 16), ptx::e4m3x2_f32(high),
                          ptx::e4m3x2_f32(high >> 16)};
  Piece piece;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements / 2; ++i) {
    piece.x[2 * i] = x[i].lo * scale;
    piece.x[2 * i + 1] = x[i].hi * scale;
  }
  return piece;
}

template <class Config>
PTX_DEVICE void dequantize_kernel(const DequantizeParams& params) {
  constexpr uint32_t kElements = 2 * kPieceElements;
  enter_grid();
  const uint64_t group = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  const uint32_t groups = params.k / kElements;  // of a row
  const uint64_t row = group / groups;
  if (row >= params.m) return;
  const uint64_t column = group % groups * kElements;
  const uint64_t scale_row = row / params.scale_rows;
  const uint64_t scale_at = scale_row * params.sf_row_stride + column / kQuantizeBlock * params.sf_group_stride;
  const float scale = ptx::ldg_f32(params.sf + scale_at);
  const ptx::U32x4 codes = ptx::ldg_v4_u32(params.q + row * params.q_pitch + column);
  uint16_t* gX = params.x + row * params.x_pitch + column;
  store_bf16_piece(gX, dequantized_piece(codes.x, codes.y, scale));
  store_bf16_piece(gX + kPieceElements, dequantized_piece(codes.z, codes.w, scale));
}

}  // namespace quant
