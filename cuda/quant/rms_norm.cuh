// RMSNorm of rows: a residual is added before, and what comes out is BF16, or E4M3 with one scale per 1x128.
//
//   h = x + residual, rounded to BF16 and written back      y = h / sqrt(mean(h^2) + eps) * weight
//   out = y      or      sf[row, g] = scale(amax of the finite y of block g), q = e4m3(y * multiplier(row, g))
//
//   x, residual, out BF16 [rows, hidden] · weight BF16 [hidden] · q E4M3 [rows, hidden] · sf FP32 [ceil(hidden/128), rows]
//
// Schedule: a CTA per row, which stays in registers between the sum and the result: memory is read once. The order of the
// sum is fixed (docs/numerics.md): pieces of a thread ascending, lanes in pairs, warps ascending.
#pragma once
#include <cstdint>

#include "hopper/cta/cta_reduce.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/params.h"
#include "quant/quantize_row.cuh"
#include "quant/scale.h"

namespace quant {

template <class Config>
struct RmsNormStorage {
  float squares[Config::kThreads / 32];  // of each warp
};

// Eight elements of h, which replace those of the residual.
PTX_DEVICE Piece load_h(const RmsNormParams& params, uint64_t row, uint64_t column) {
  const Piece x = load_bf16_piece(params.x + row * params.x_pitch + column);
  if (params.residual == nullptr) return x;
  uint16_t* gResidual = params.residual + row * params.residual_pitch + column;
  const Piece residual = bf16_piece(ptx::ld_global_v4_u32(gResidual));
  Piece sum;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) sum.x[i] = x.x[i] + residual.x[i];
  const ptx::U32x4 h = bf16_bits(sum);
  ptx::stg_v4_u32(gResidual, h);
  return bf16_piece(h);
}

// y of eight elements.
PTX_DEVICE Piece normalise(const RmsNormParams& params, const Piece& h, uint64_t column, float scale) {
  const Piece weight = load_bf16_piece(params.weight + column);
  const bool each_step = params.rounding == NORM_ROUND_EACH_STEP;
  Piece y;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) y.x[i] = h.x[i] * scale;
  if (each_step) y = bf16_piece(bf16_bits(y));
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) y.x[i] = y.x[i] * weight.x[i];
  return each_step ? bf16_piece(bf16_bits(y)) : y;
}

// The row's piece at `column` on its way out. Every lane of the warp comes here; `exists` says whether the row has it.
PTX_DEVICE void store_y(const RmsNormParams& params, const Piece& y, uint64_t row, uint64_t column, bool exists) {
  if (params.out != nullptr) {
    if (exists) store_bf16_piece(params.out + row * params.out_pitch + column, y);
    return;
  }
  const BlockScale scale = scale_of_block(y, params.rule);
  if (!exists) return;
  float* gSf = params.sf + column / kQuantizeBlock * params.sf_pitch + row;
  store_block(params.q + row * params.q_pitch + column, gSf, y, scale, params.error_words);
}

template <class Config>
PTX_DEVICE void rms_norm_kernel(const RmsNormParams& params) {
  enter_grid();
  const uint64_t row = ptx::cta_idx();
  const auto column = [](uint32_t i) { return (ptx::thread_idx() + i * Config::kThreads) * kPieceElements; };

  Piece h[Config::kMaxPieces] = {};  // kThreads pieces apart
  float squares = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < Config::kMaxPieces; ++i) {
    if (column(i) >= params.hidden) continue;
    h[i] = load_h(params, row, column(i));
#pragma unroll
    for (uint32_t e = 0; e < kPieceElements; ++e) squares = ptx::fma_rn(h[i].x[e], h[i].x[e], squares);
  }

  squares = cta_reduce<Config::kThreads>(squares, [](float a, float b) { return a + b; });
  const float mean = squares / static_cast<float>(params.hidden);
  const float scale = 1.0f / ptx::sqrt_rn(mean + params.eps);
#pragma unroll
  for (uint32_t i = 0; i < Config::kMaxPieces; ++i) {
    if (i * Config::kThreads * kPieceElements >= params.hidden) break;  // for all threads alike
    const bool exists = column(i) < params.hidden;
    Piece y = {};
    if (exists) y = normalise(params, h[i], column(i), scale);
    store_y(params, y, row, column(i), exists);
  }
}

}  // namespace quant
