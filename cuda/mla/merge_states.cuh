// Attention over two parts of the keys, put together: what a softmax over all keys would give.
//
//   m = max(lse_0, lse_1) · w_i = exp(lse_i - m) · out = (w_0 o_0 + w_1 o_1) / (w_0 + w_1) · lse = m + log(w_0 + w_1)
//
//   o_0, o_1, out BF16 or FP32 [rows, 512] · lse FP32 [rows], natural logarithm, -Inf: the part has no key
//
// Every operation is rounded to FP32, and nothing but the row decides its bits; the two parts may change places. The
// larger weight is 1, so one exponential is enough. Schedule: a thread owns eight columns of a row.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/exp.cuh"
#include "hopper/cta/log1p.cuh"
#include "mla/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace mla {

constexpr uint32_t merge_states_threads = 256;
constexpr uint32_t merge_states_smem_bytes = 0;

constexpr uint32_t kMergeColumns = 8;
constexpr uint32_t kMergeThreadsPerRow = MLA_LATENT / kMergeColumns;
constexpr float kInfinity = std::bit_cast<float>(0x7f800000u);

struct MergePiece {
  float x[kMergeColumns];
};

PTX_DEVICE MergePiece load_piece(const MergeStatesParams& params, const MergePart& part, uint64_t row,
                                 uint32_t column) {
  const uint64_t element = row * part.o_pitch + column;
  MergePiece piece;
  if (params.o_is_f32 != 0) {
    const float* p = static_cast<const float*>(part.o) + element;
    const ptx::U32x4 low = ptx::ldg_v4_u32(p), high = ptx::ldg_v4_u32(p + 4);
    const uint32_t words[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (uint32_t i = 0; i < kMergeColumns; ++i) piece.x[i] = std::bit_cast<float>(words[i]);
  } else {
    const ptx::U32x4 v = ptx::ldg_v4_u32(static_cast<const uint16_t*>(part.o) + element);
    const uint32_t pairs[] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (uint32_t i = 0; i < kMergeColumns; i += 2) {
      piece.x[i] = ptx::bf16_lo_f32(pairs[i / 2]);
      piece.x[i + 1] = ptx::bf16_hi_f32(pairs[i / 2]);
    }
  }
  return piece;
}

PTX_DEVICE void store_piece(const MergeStatesParams& params, uint64_t row, uint32_t column, const MergePiece& piece) {
  const uint64_t element = row * params.out_pitch + column;
  const float(&x)[kMergeColumns] = piece.x;
  if (params.o_is_f32 != 0) {
    float* p = static_cast<float*>(params.out) + element;
    const auto bits = [&](int i) { return std::bit_cast<uint32_t>(x[i]); };
    ptx::stg_v4_u32(p, {bits(0), bits(1), bits(2), bits(3)});
    ptx::stg_v4_u32(p + 4, {bits(4), bits(5), bits(6), bits(7)});
  } else {
    ptx::stg_v4_u32(static_cast<uint16_t*>(params.out) + element,
                    {ptx::cvt_bf16x2(x[1], x[0]), ptx::cvt_bf16x2(x[3], x[2]), ptx::cvt_bf16x2(x[5], x[4]),
                     ptx::cvt_bf16x2(x[7], x[6])});
  }
}

// out <- o of `part`, bit for bit.
PTX_DEVICE void copy_piece(const MergeStatesParams& params, const MergePart& part, uint64_t row, uint32_t column) {
  const uint32_t bytes = params.o_is_f32 != 0 ? 4 : 2;
  const uint8_t* from = static_cast<const uint8_t*>(part.o) + (row * part.o_pitch + column) * bytes;
  uint8_t* to = static_cast<uint8_t*>(params.out) + (row * params.out_pitch + column) * bytes;
#pragma unroll 1
  for (uint32_t i = 0; i < kMergeColumns * bytes; i += 16) ptx::stg_v4_u32(to + i, ptx::ldg_v4_u32(from + i));
}

// -Inf for a part without keys, whichever infinity its maker writes then.
PTX_DEVICE float part_lse(const MergeStatesParams& params, const MergePart& part, uint64_t row) {
  const float lse = ptx::ldg_f32(part.lse + row);
  return params.infinity_is_empty != 0 && lse == kInfinity ? -kInfinity : lse;
}

// out <- both parts, weighted; returns their lse.
PTX_DEVICE float merge_piece(const MergeStatesParams& params, float lse0, float lse1, uint64_t row, uint32_t column) {
  const MergePiece o0 = load_piece(params, params.part[0], row, column);
  const MergePiece o1 = load_piece(params, params.part[1], row, column);
  const bool first_larger = lse0 >= lse1;
  const float largest = first_larger ? lse0 : lse1, least = first_larger ? lse1 : lse0;
  const float weight = exp_f32(least - largest);
  const float w0 = first_larger ? 1.0f : weight, w1 = first_larger ? weight : 1.0f;
  const float sum = 1.0f + weight;
  MergePiece out;
#pragma unroll
  for (uint32_t i = 0; i < kMergeColumns; ++i) out.x[i] = (w0 * o0.x[i] + w1 * o1.x[i]) / sum;
  store_piece(params, row, column, out);
  return largest + log1p_f32(weight);
}

// The o of a part without keys may hold anything: it is not read.
PTX_DEVICE void merge_states_kernel(const MergeStatesParams& params) {
  const uint64_t thread = static_cast<uint64_t>(ptx::cta_idx()) * merge_states_threads + ptx::thread_idx();
  const uint64_t row = thread / kMergeThreadsPerRow;
  const uint32_t column = static_cast<uint32_t>(thread % kMergeThreadsPerRow) * kMergeColumns;
  if (row >= params.rows) return;

  const float lse0 = part_lse(params, params.part[0], row), lse1 = part_lse(params, params.part[1], row);
  const bool has0 = lse0 != -kInfinity, has1 = lse1 != -kInfinity;
  float lse = has0 ? lse0 : lse1;
  if (has0 && has1) {
    lse = merge_piece(params, lse0, lse1, row, column);
  } else if (has0 || has1) {
    copy_piece(params, params.part[has0 ? 0 : 1], row, column);
  } else {
    store_piece(params, row, column, MergePiece{});
  }
  if (column == 0) ptx::stg_f32(params.out_lse + row, lse);
}

}  // namespace mla
