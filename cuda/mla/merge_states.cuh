// Attention over two parts of the keys, put together: what a softmax over all keys would give.
//
//   m = max(lse_0, lse_1) · w_i = exp(lse_i - m) · out = (w_0 o_0 + w_1 o_1) / (w_0 + w_1) · lse = m + log(w_0 + w_1)
//
//   o_0, o_1, out BF16 or FP32 [rows, columns] · lse FP32 [tokens, heads], natural logarithm, -Inf: the part has no key
//
// Every operation is rounded to FP32, and nothing but the row decides its bits; the two parts may change places. The
// larger weight is 1, so one exponential is enough. Schedule: a thread owns eight columns of a row.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/exp.cuh"
#include "hopper/cta/log1p.cuh"
#include "hopper/cta/pieces.cuh"
#include "mla/lse.h"
#include "mla/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace mla {

constexpr float kInfinity = std::bit_cast<float>(0x7f800000u);

PTX_DEVICE Piece load_piece(const MergeStatesParams& params, const MergePart& part, uint64_t row, uint32_t column) {
  const uint64_t element = row * part.o_pitch + column;
  if (params.o_is_f32 != 0) return load_f32_piece(static_cast<const float*>(part.o) + element);
  return load_bf16_piece(static_cast<const uint16_t*>(part.o) + element);
}

PTX_DEVICE void store_piece(const MergeStatesParams& params, uint64_t row, uint32_t column, const Piece& piece) {
  const uint64_t element = row * params.out_pitch + column;
  if (params.o_is_f32 != 0) {
    store_f32_piece(static_cast<float*>(params.out) + element, piece);
  } else {
    store_bf16_piece(static_cast<uint16_t*>(params.out) + element, piece);
  }
}

// out <- o of `part`, bit for bit.
PTX_DEVICE void copy_piece(const MergeStatesParams& params, const MergePart& part, uint64_t row, uint32_t column) {
  const uint32_t bytes = params.o_is_f32 != 0 ? 4 : 2;
  const uint8_t* from = static_cast<const uint8_t*>(part.o) + (row * part.o_pitch + column) * bytes;
  uint8_t* to = static_cast<uint8_t*>(params.out) + (row * params.out_pitch + column) * bytes;
#pragma unroll 1
  for (uint32_t i = 0; i < kPieceElements * bytes; i += 16) ptx::stg_v4_u32(to + i, ptx::ldg_v4_u32(from + i));
}

// -Inf for a part without keys, whichever infinity its maker writes then.
PTX_DEVICE float part_lse(const MergeStatesParams& params, const MergePart& part, uint32_t row) {
  const float lse = ptx::ldg_f32(part.lse + lse_element(part.lse_strides, row / params.heads, row % params.heads));
  return params.infinity_is_empty != 0 && lse == kInfinity ? -kInfinity : lse;
}

// out <- both parts, weighted; returns their lse.
PTX_DEVICE float merge_piece(const MergeStatesParams& params, float lse0, float lse1, uint64_t row, uint32_t column) {
  const Piece o0 = load_piece(params, params.part[0], row, column);
  const Piece o1 = load_piece(params, params.part[1], row, column);
  const bool first_larger = lse0 >= lse1;
  const float largest = first_larger ? lse0 : lse1, least = first_larger ? lse1 : lse0;
  const float weight = exp_f32(least - largest);
  const float w0 = first_larger ? 1.0f : weight, w1 = first_larger ? weight : 1.0f;
  const float sum = 1.0f + weight;
  Piece out;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) out.x[i] = (w0 * o0.x[i] + w1 * o1.x[i]) / sum;
  store_piece(params, row, column, out);
  return largest + log1p_f32(weight);
}

// The o of a part without keys may hold anything: it is not read.
template <class Config>
PTX_DEVICE void merge_states_kernel(const MergeStatesParams& params) {
  enter_grid();
  const uint64_t thread = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  const uint32_t threads_per_row = params.columns / kPieceElements;
  const uint32_t row = static_cast<uint32_t>(thread / threads_per_row);
  const uint32_t column = static_cast<uint32_t>(thread % threads_per_row) * kPieceElements;
  if (row >= params.rows) return;

  const float lse0 = part_lse(params, params.part[0], row), lse1 = part_lse(params, params.part[1], row);
  const bool has0 = lse0 != -kInfinity, has1 = lse1 != -kInfinity;
  float lse = has0 ? lse0 : lse1;
  if (has0 && has1) {
    lse = merge_piece(params, lse0, lse1, row, column);
  } else if (has0 || has1) {
    copy_piece(params, params.part[has0 ? 0 : 1], row, column);
  } else {
    store_piece(params, row, column, Piece{});
  }
  if (column != 0) return;
  ptx::stg_f32(params.out_lse + lse_element(params.out_lse_strides, row / params.heads, row % params.heads), lse);
}

}  // namespace mla
