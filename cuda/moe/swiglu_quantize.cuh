// The activation between an expert's two GEMMs, quantised: BF16 -> E4M3 with one scale per 1x128 block.
//
//   h = gate / (1 + exp(-gate)) * up (* weight of the row)      sf[g, row], q[row] = quantised h, for every row in use
//
//   gate, up BF16 [rows, i], the halves of a row in either order · weights FP32 [tokens, top_k] · row_route int32 [rows]
//   q E4M3 [rows, i] · sf FP32 [ceil(i/128), rows]
//
// Schedule: as quantize_1x128, sixteen lanes per block; h never leaves FP32 registers. Rows that no expert uses are
// neither read nor written.
#pragma once
#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/tile/pitch.h"
#include "moe/params.h"
#include "moe/swiglu.cuh"
#include "moe/used_rows.cuh"
#include "ptx/gmem.h"
#include "ptx/target.h"
#include "quant/quantize_row.cuh"

namespace moe {

// h of eight neighbouring columns. With weights, a row without a route (padding) is zero, whatever it holds.
PTX_DEVICE Piece swiglu_piece(const SwigluQuantizeParams& params, uint64_t row, uint64_t column) {
  constexpr uint32_t kPadding = 0xffffffffu;  // -1
  float weight = 1.0f;
  if (params.weights != nullptr) {
    const uint32_t route = ptx::ldg_u32(params.row_route + row);
    if (route >= params.routes) {
      if (route != kPadding) report_fault(params.error_words, FAULT_SEGMENT);
      return {};
    }
    weight = ptx::ldg_f32(params.weights + pitched(route, params.top_k, params.weights_pitch));
  }
  const uint64_t element = row * params.x_pitch + column;
  const Piece gate = load_bf16_piece(params.gate + element);
  const Piece up = load_bf16_piece(params.up + element);
  Piece h;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) h.x[i] = swiglu(gate.x[i], up.x[i], params.clamp) * weight;
  return h;
}

template <class Config>
PTX_DEVICE void swiglu_quantize_kernel(const SwigluQuantizeParams& params) {
  enter_grid();
  quantize_used_rows<Config>(
      params, [&](uint64_t row, uint64_t column) { return swiglu_piece(params, row, column); });
}

}  // namespace moe
