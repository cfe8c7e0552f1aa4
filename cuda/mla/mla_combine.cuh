// Last launch of MLA decode: the parts of a sequence with several splits, added up in ascending order.
//
//   M = max over i of m[i]        w[i] = 2^(m[i] - M)        L = sum of w[i] * l[i]
//   out = bf16( sum of w[i] * O[i]  /  L )                   lse = ln(2) * (M + log2(L))
//
//   O FP32 [splits, rows, 512], not divided by l · m, l FP32 [splits, rows, 2], m in units of log2 · out BF16 [tokens, heads, 512]
//
// A part without any key (l = 0) changes no bit. Schedule: four warps per row, four columns per lane, since few sequences
// have few rows; a warp asks for several parts at once and adds them one after the other.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/warp_reduce.cuh"
#include "mla/lse.h"
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

// The parts' weighted sum of four columns, and of l.
struct MlaSum {
  float o[4] = {};
  float l = 0;
};

// Of the columns from `column` on.
PTX_DEVICE MlaSum add_parts(MlaParts parts, float greatest, uint32_t column) {
  constexpr uint32_t kAtOnce = 8;  // parts that are asked for together
  MlaSum sum;
#pragma unroll 1
  for (uint32_t first = 0; first < parts.count; first += kAtOnce) {
    float m[kAtOnce], l[kAtOnce];
    ptx::U32x4 o[kAtOnce];
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      const bool exists = first + i < parts.count;
      const uint64_t row = (exists ? first + i : first) * parts.rows;
      m[i] = ptx::ldg_f32(parts.state + 2 * row);
      l[i] = exists ? ptx::ldg_f32(parts.state + 2 * row + 1) : 0.0f;
      o[i] = ptx::ldg_v4_u32_if(exists, parts.out + row * MLA_LATENT + column);
    }
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      if (l[i] == 0.0f) continue;
      const float weight = ptx::ex2_approx(m[i] - greatest);
      const uint32_t bits[] = {o[i].x, o[i].y, o[i].z, o[i].w};
      sum.l = ptx::fma_rn(weight, l[i], sum.l);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.o[j] = ptx::fma_rn(weight, std::bit_cast<float>(bits[j]), sum.o[j]);
    }
  }
  return sum;
}

// Row `row` of all that the sequences may have, of whose columns each warp of the row takes its 128.
PTX_DEVICE void combine_row(const MlaCombineParams& params, uint32_t row, uint32_t column) {
  const uint32_t sequence = row / params.rows, of_sequence = row % params.rows;
  const uint32_t* gQueries = params.queries + 2 * static_cast<uint64_t>(sequence);
  if (of_sequence >= ptx::ldg_u32(gQueries + 1) * params.heads) return;
  const uint32_t* gOffsets = params.split_offsets + sequence;
  const uint32_t first = ptx::ldg_u32(gOffsets);
  const uint32_t count = ptx::ldg_u32(gOffsets + 1) - first;
  if (count == 1) return;  // its only CTA has written the output
  const uint64_t part_row = static_cast<uint64_t>(first) * params.rows + of_sequence;
  const MlaParts parts{params.part_out + part_row * MLA_LATENT, params.part_state + part_row * 2, params.rows, count};

  const float greatest = greatest_max(parts);
  const auto [o, l] = add_parts(parts, greatest, column);
  const float inverse = inverse_sum(l);
  const uint32_t first_token = ptx::ldg_u32(gQueries);
  const uint64_t out_row = static_cast<uint64_t>(first_token) * params.heads + of_sequence;
  ptx::stg_v2_u32(params.out + out_row * params.out_pitch + column, ptx::cvt_bf16x2(o[1] * inverse, o[0] * inverse),
                  ptx::cvt_bf16x2(o[3] * inverse, o[2] * inverse));
  if (column == 0) {
    const uint64_t at =
        lse_element(params.lse_strides, first_token + of_sequence / params.heads, of_sequence % params.heads);
    ptx::stg_f32(params.lse + at, log_sum_exp(greatest, l, params.empty_lse));
  }
}

template <class Config>
PTX_DEVICE void mla_combine_kernel(const MlaCombineParams& params) {
  constexpr uint32_t kThreadsPerRow = MLA_LATENT / 4;
  static_assert(Config::kThreads == Config::kRows * kThreadsPerRow, "four columns per lane");
  enter_grid();
  const uint32_t column = ptx::thread_idx() % kThreadsPerRow * 4;
#pragma unroll 1
  for (uint32_t row = ptx::cta_idx() * Config::kRows + ptx::thread_idx() / kThreadsPerRow;
       row < params.batch * params.rows; row += ptx::grid_dim() * Config::kRows) {
    combine_row(params, row, column);
  }
}

}  // namespace mla
