// What the experts made of a token, added up in a fixed order and rounded once.
//
//   out[t] = bf16( sum over k = 0, 1, ... of weights[t, k] * y[route_row[t, k]]  (+ shared[t])  (+ residual[t]) )
//
//   y BF16 [rows, h] · route_row int32, weights FP32 [tokens, top_k] · shared, residual, out BF16 [tokens, h]
//
// Schedule: a thread owns eight columns of a token and keeps four rows in flight; an FP32 fma per route, no atomics.
#pragma once
#include <cstdint>

#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "moe/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace moe {

constexpr uint32_t kRoutesInFlight = 4;

// sum += weight * v, BF16 [8].
PTX_DEVICE void add_piece(Piece& sum, float weight, ptx::U32x4 v) {
  const Piece y = bf16_piece(v);
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) sum.x[i] = ptx::fma_rn(weight, y.x[i], sum.x[i]);
}

// The loads of a step depend on each other only within a route: all rows are asked for before the first is used.
PTX_DEVICE void add_routes(const CombineParams& params, uint64_t token, uint64_t column, Piece& sum) {
  constexpr uint32_t kDropped = 0xffffffffu;  // -1
  const uint64_t row0 = token * params.route_row_pitch, weight0 = token * params.weights_pitch;
  for (uint32_t k0 = 0; k0 < params.top_k; k0 += kRoutesInFlight) {
    uint32_t row[kRoutesInFlight];
#pragma unroll
    for (uint32_t i = 0; i < kRoutesInFlight; ++i) {
      row[i] = k0 + i < params.top_k ? ptx::ldg_u32(params.route_row + row0 + k0 + i) : kDropped;
    }
    ptx::U32x4 v[kRoutesInFlight];
    float weight[kRoutesInFlight];
#pragma unroll
    for (uint32_t i = 0; i < kRoutesInFlight; ++i) {
      if (row[i] >= params.rows) continue;
      v[i] = ptx::ldg_v4_u32(params.y + row[i] * params.y_pitch + column);
      weight[i] = params.weights != nullptr ? ptx::ldg_f32(params.weights + weight0 + k0 + i) : 1.0f;
    }
#pragma unroll
    for (uint32_t i = 0; i < kRoutesInFlight; ++i) {
      if (row[i] < params.rows) {
        add_piece(sum, weight[i], v[i]);
      } else if (row[i] != kDropped) {
        report_fault(params.error_words, FAULT_SEGMENT);
      }
    }
  }
}

template <class Config>
PTX_DEVICE void combine_kernel(const CombineParams& params) {
  enter_grid();
  const uint64_t piece = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  const uint64_t token = piece / params.pieces;
  const uint64_t column = piece % params.pieces * kPieceElements;
  if (token >= params.tokens) return;

  Piece sum = {};
  add_routes(params, token, column, sum);
  if (params.shared != nullptr) {
    add_piece(sum, 1.0f, ptx::ldg_v4_u32(params.shared + token * params.shared_pitch + column));
  }
  if (params.residual != nullptr) {
    add_piece(sum, 1.0f, ptx::ldg_v4_u32(params.residual + token * params.residual_pitch + column));
  }
  store_bf16_piece(params.out + token * params.out_pitch + column, sum);
}

}  // namespace moe
