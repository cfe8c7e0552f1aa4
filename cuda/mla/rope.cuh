// Rotary position embedding of neighbouring pairs, from a table of angles.
//
//   out[2 i] = bf16(x[2 i] * cos - x[2 i + 1] * sin)      out[2 i + 1] = bf16(x[2 i] * sin + x[2 i + 1] * cos)
//
//   x, out BF16 [tokens, heads, 64] · positions indices [tokens] · table FP32 [positions, 64]: cos, sin of every pair
//
// Schedule: eight lanes per head, four pairs each. FP32, each product and each sum rounded by itself.
#pragma once
#include <bit>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "indices.cuh"
#include "mla/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace mla {

constexpr uint32_t kPiecesPerHead = MLA_ROPE / kPieceElements;

// BF16 [2], turned.
PTX_DEVICE uint32_t rotate(uint32_t pair, uint32_t cos_bits, uint32_t sin_bits) {
  const float x = ptx::bf16_lo_f32(pair), y = ptx::bf16_hi_f32(pair);
  const float cos = std::bit_cast<float>(cos_bits), sin = std::bit_cast<float>(sin_bits);
  return ptx::cvt_bf16x2(x * sin + y * cos, x * cos - y * sin);
}

template <class Config>
PTX_DEVICE void rope_kernel(const RopeParams& params) {
  enter_grid();
  const uint64_t piece = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  const uint64_t row = piece / kPiecesPerHead;
  const uint64_t token = row / params.heads, head = row % params.heads;
  const uint64_t column = piece % kPiecesPerHead * kPieceElements;
  if (token >= params.tokens) return;

  uint16_t* gOut = params.out + token * params.out_token_stride + head * params.out_head_stride + column;
  const uint32_t position = static_cast<uint32_t>(load_index(params.positions, 0, token));
  if (position >= params.table_rows) {
    report_fault(params.error_words, FAULT_POSITION);
    ptx::stg_v4_u32(gOut, {});
    return;
  }
  const uint16_t* gX = params.x + token * params.x_token_stride + head * params.x_head_stride + column;
  const float* gAngles = params.table + position * params.table_pitch + column;
  const ptx::U32x4 x = ptx::ldg_v4_u32(gX);
  const ptx::U32x4 a = ptx::ldg_v4_u32(gAngles);  // two pairs
  const ptx::U32x4 b = ptx::ldg_v4_u32(gAngles + 4);
  ptx::stg_v4_u32(gOut, {rotate(x.x, a.x, a.y), rotate(x.y, a.z, a.w), rotate(x.z, b.x, b.y), rotate(x.w, b.z, b.w)});
}

}  // namespace mla
