// Rotary position embedding of pairs of columns, from a table of angles.
//
//   out[a] = bf16(x[a] * cos - x[b] * sin)      out[b] = bf16(x[a] * sin + x[b] * cos)
//   pair i: neighbours a, b = 2 i, 2 i + 1, or halves a, b = i, columns / 2 + i
//
//   x, out BF16 [tokens, heads, columns] · positions indices [tokens] · table FP32 [positions, columns]: cos, sin of every pair
//
// Schedule: a thread owns four pairs of neighbours, where they are whole pieces, else one, or two pairs of halves: whole words
// in any case. FP32, each product and each sum rounded by itself.
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

// A pair, turned: in FP32, not rounded to BF16 yet.
PTX_DEVICE ptx::F32x2 turn(float x, float y, uint32_t cos_bits, uint32_t sin_bits) {
  const float cos = std::bit_cast<float>(cos_bits), sin = std::bit_cast<float>(sin_bits);
  return {x * cos - y * sin, x * sin + y * cos};
}

// A pair of neighbours, BF16 [2].
PTX_DEVICE uint32_t turn_pair(uint32_t pair, uint32_t cos_bits, uint32_t sin_bits) {
  const ptx::F32x2 turned = turn(ptx::bf16_lo_f32(pair), ptx::bf16_hi_f32(pair), cos_bits, sin_bits);
  return ptx::cvt_bf16x2(turned.hi, turned.lo);
}

// Four pairs of neighbours; without angles, zeros.
PTX_DEVICE void turn_piece(uint16_t* gOut, const uint16_t* gX, const float* gAngles) {
  if (gAngles == nullptr) return ptx::stg_v4_u32(gOut, {});
  const ptx::U32x4 x = ptx::ldg_v4_u32(gX);
  const ptx::U32x4 a = ptx::ldg_v4_u32(gAngles);  // two pairs
  const ptx::U32x4 b = ptx::ldg_v4_u32(gAngles + 4);
  ptx::stg_v4_u32(gOut, {turn_pair(x.x, a.x, a.y), turn_pair(x.y, a.z, a.w), turn_pair(x.z, b.x, b.y),
                         turn_pair(x.w, b.z, b.w)});
}

// One pair of neighbours.
PTX_DEVICE void turn_word(uint16_t* gOut, const uint16_t* gX, const float* gAngles) {
  if (gAngles == nullptr) return ptx::stg_u32(gOut, 0);
  const uint32_t x = ptx::ldg_u32(gX), cos_bits = ptx::ldg_u32(gAngles), sin_bits = ptx::ldg_u32(gAngles + 1);
  ptx::stg_u32(gOut, turn_pair(x, cos_bits, sin_bits));
}

// Two pairs of halves, `half` columns apart.
PTX_DEVICE void turn_halves(uint16_t* gOut, const uint16_t* gX, const float* gAngles, uint32_t half) {
  uint32_t left = 0, right = 0;
  if (gAngles != nullptr) {
    const uint32_t x = ptx::ldg_u32(gX), y = ptx::ldg_u32(gX + half);
    const ptx::U32x4 a = ptx::ldg_v4_u32(gAngles);
    const ptx::F32x2 first = turn(ptx::bf16_lo_f32(x), ptx::bf16_lo_f32(y), a.x, a.y);
    const ptx::F32x2 second = turn(ptx::bf16_hi_f32(x), ptx::bf16_hi_f32(y), a.z, a.w);
    left = ptx::cvt_bf16x2(second.lo, first.lo);
    right = ptx::cvt_bf16x2(second.hi, first.hi);
  }
  ptx::stg_u32(gOut, left);
  ptx::stg_u32(gOut + half, right);
}

template <class Config>
PTX_DEVICE void rope_kernel(const RopeParams& params) {
  enter_grid();
  const bool halves = params.pairs == ROPE_HALVES, pieces = !halves && params.columns % kPieceElements == 0;
  const uint32_t thread_columns = halves ? 4 : pieces ? kPieceElements : 2;
  const uint32_t threads_per_head = params.columns / thread_columns;
  const uint64_t thread = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  const uint64_t row = thread / threads_per_head;
  const uint64_t token = row / params.heads, head = row % params.heads;
  if (token >= params.tokens) return;

  const uint32_t angle = static_cast<uint32_t>(thread % threads_per_head) * thread_columns;
  const uint32_t column = halves ? angle / 2 : angle;
  uint16_t* gOut = params.out + token * params.out_token_stride + head * params.out_head_stride + column;
  const uint16_t* gX = params.x + token * params.x_token_stride + head * params.x_head_stride + column;
  const uint32_t position = static_cast<uint32_t>(load_index(params.positions, 0, token));
  const bool exists = position < params.table_rows;
  const float* gAngles = exists ? params.table + position * params.table_pitch + angle : nullptr;
  if (!exists) report_fault(params.error_words, FAULT_POSITION);
  if (halves) {
    turn_halves(gOut, gX, gAngles, params.columns / 2);
  } else if (pieces) {
    turn_piece(gOut, gX, gAngles);
  } else {
    turn_word(gOut, gX, gAngles);
  }
}

}  // namespace mla
