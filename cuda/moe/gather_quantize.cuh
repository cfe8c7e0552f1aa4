// Rows of tokens gathered by expert and quantised: BF16 -> E4M3 with one scale per 1x128 block.
//
//   sf[g, row], q[row] = quantised x[row_route[row] / top_k] for every row in use; zeros where that is -1
//
//   x BF16 [tokens, h] · row_route int32 [rows] · q E4M3 [rows, h] · sf FP32 [ceil(h/128), rows]
//
// Schedule: as quantize_1x128, sixteen lanes per block. Rows that no expert uses are left alone.
#pragma once
#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "moe/params.h"
#include "moe/used_rows.cuh"
#include "ptx/gmem.h"
#include "ptx/target.h"
#include "quant/quantize_row.cuh"

namespace moe {

// A zero block for padding, and for a route that does not exist.
PTX_DEVICE Piece gather_piece(const GatherQuantizeParams& params, uint64_t row, uint64_t column) {
  constexpr uint32_t kPadding = 0xffffffffu;  // -1
  const uint32_t route = ptx::ldg_u32(params.row_route + row);
  if (route < params.routes) return load_bf16_piece(params.x + route / params.top_k * params.x_pitch + column);
  if (route != kPadding) report_fault(params.error_words, FAULT_SEGMENT);
  return {};
}

template <class Config>
PTX_DEVICE void gather_quantize_kernel(const GatherQuantizeParams& params) {
  enter_grid();
  quantize_used_rows<Config>(
      params, [&](uint64_t row, uint64_t column) { return gather_piece(params, row, column); });
}

}  // namespace moe
