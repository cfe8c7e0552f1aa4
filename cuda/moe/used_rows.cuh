// Which rows experts use, from what routing left on the device, and how they are quantised; nothing that stands there can
// lead outside.
#pragma once
#include <cstdint>

#include "faults.h"
#include "gemm/segments.h"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "moe/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/quantize_row.cuh"

namespace moe {

// Of a row below `used.total`. Ragged segments fill the rows from 0 on, so that only their last end matters.
PTX_DEVICE bool row_in_use(const UsedRows& used, uint32_t row, uint32_t* error_words) {
  const bool masked = used.max_rows != 0;
  const uint32_t expert = masked ? row / used.max_rows : used.experts;
  const int32_t stored = static_cast<int32_t>(ptx::ldg_u32(used.rows + expert));
  const gemm::Segment segment =
      masked ? gemm::masked_segment(expert, stored, used.max_rows) : gemm::ragged_segment(0, stored, used.total);
  if (segment.clamped && row == segment.row) report_fault(error_words, FAULT_SEGMENT);
  return row < segment.row_end;
}

// Quantises the rows in use, sixteen lanes per 1x128 block as quantize_1x128 does; `piece(row, column)` gives a lane's
// elements. Rows that no expert uses are left alone.
template <class Config, class Params, class PieceAt>
PTX_DEVICE void quantize_used_rows(const Params& params, PieceAt piece) {
  constexpr uint32_t kBlocksPerCta = Config::kThreads / quant::kLanesPerRow;
  const uint32_t thread = ptx::thread_idx();
  const uint32_t block = ptx::cta_idx() * kBlocksPerCta + thread / quant::kLanesPerRow;
  const uint32_t blocks = quant::quantize_blocks(params.k);
  const uint64_t row = block / blocks;
  const uint64_t g = block % blocks;
  const uint64_t column = g * quant::kQuantizeBlock + thread % quant::kLanesPerRow * kPieceElements;
  const bool used =
      row < params.used.total && row_in_use(params.used, static_cast<uint32_t>(row), params.error_words);

  Piece x = {};
  const bool exists = used && column < params.k;
  if (exists) x = piece(row, column);
  const quant::BlockScale scale = quant::scale_of_block(x, params.rule);
  if (!exists) return;
  quant::store_block(params.q + row * params.q_pitch + column, params.sf + g * params.sf_pitch + row, x, scale,
                     params.error_words);
}

}  // namespace moe
