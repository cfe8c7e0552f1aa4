// Last launch of MLA decode: the parts of a sequence with several splits, added up in ascending order.
//
//   M = max over i of m[i]        w[i] = 2^(m[i] - M)        L = sum of w[i] * l[i]
//   out = bf16( sum of w[i] * O[i]  /  L )                   lse = ln(2) * (M + log2(L))
//
//   O FP32 [splits, rows, 512], not divided by l · m, l FP32 [splits, rows, 2], m in units of log2 · out BF16 [rows, 512]
//
// A part without any key (l = 0) changes no bit. Schedule: a warp per row, 16 columns per lane.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/warp_reduce.cuh"
#include "hopper/tile/pitch.h"
#include "mla/mla_state.cuh"
#include "mla/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace mla {

struct MlaParts {
  const float* out;    // [512] of the first part
  const float* state;  // [2] of the first part
  uint64_t rows;       // from one part to the next
  uint32_t count;
};

// M: the greatest m of the parts, which the lanes look at side by side.
PTX_DEVICE float greatest_max(MlaParts parts) {
  float greatest = kMlaNoKey;
#pragma unroll 1
  for (uint32_t i = ptx::thread_idx() % 32; i < parts.count; i += 32) {
    greatest = ptx::max_f32(greatest, ptx::ldg_f32(parts.state + 2 * i * parts.rows));
  }
  return warp_reduce<32>(greatest, [](float a, float b) { return ptx::max_f32(a, b); });
}

template <class Config>
PTX_DEVICE void mla_combine_kernel(const MlaCombineParams& params) {
  static_assert(Config::kThreads == Config::kRows * 32, "a warp per row");
  constexpr uint32_t kPieces = MLA_LATENT / 128;  // of four columns per lane
  const uint32_t lane = ptx::thread_idx() % 32;
  const uint64_t row = static_cast<uint64_t>(ptx::cta_idx()) * Config::kRows + ptx::thread_idx() / 32;
  const uint64_t sequence = row / params.rows;
  if (sequence >= params.batch) return;
  const uint32_t first = ptx::ldg_u32(params.split_offsets + sequence);
  const uint32_t count = ptx::ldg_u32(params.split_offsets + sequence + 1) - first;
  if (count == 1) return;  // its only CTA has written the output
  const uint64_t part_row = static_cast<uint64_t>(first) * params.rows + row % params.rows;
  const MlaParts parts{params.part_out + part_row * MLA_LATENT, params.part_state + part_row * 2, params.rows, count};

  const float greatest = greatest_max(parts);
  float sum[kPieces][4] = {};
  float l = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const float* gState = parts.state + 2 * i * parts.rows;
    const float part_l = ptx::ldg_f32(gState + 1);
    if (part_l == 0.0f) continue;
    const float weight = ptx::ex2_approx(ptx::ldg_f32(gState) - greatest);
    l = ptx::fma_rn(weight, part_l, l);
#pragma unroll
    for (uint32_t piece = 0; piece < kPieces; ++piece) {
      const ptx::U32x4 v = ptx::ldg_v4_u32(parts.out + i * parts.rows * MLA_LATENT + piece * 128 + lane * 4);
      const uint32_t bits[] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[piece][j] = ptx::fma_rn(weight, std::bit_cast<float>(bits[j]), sum[piece][j]);
    }
  }
  const float inverse = inverse_sum(l);
#pragma unroll
  for (uint32_t piece = 0; piece < kPieces; ++piece) {
    const float(&x)[4] = sum[piece];
    ptx::stg_v2_u32(params.out + row * params.out_pitch + piece * 128 + lane * 4,
                    ptx::cvt_bf16x2(x[1] * inverse, x[0] * inverse), ptx::cvt_bf16x2(x[3] * inverse, x[2] * inverse));
  }
  if (lane == 0) {
    ptx::stg_f32(params.lse + pitched(static_cast<uint32_t>(row), params.heads, params.lse_pitch),
                 log_sum_exp(greatest, l, params.empty_lse));
  }
}

}  // namespace mla
