// The activation between an expert's two GEMMs, quantised: BF16 -> E4M3 with one scale per 1x128 block.
//
//   h = gate / (1 + exp(-gate)) * up (* weight of the row)      sf[g, row], q[row] = quantised h, for every row in use
//
//   x BF16 [rows, 2 i], gate the left half, up the right one · weights FP32 [slots] · row_slot int32 [rows]
//   q E4M3 [rows, i] · sf FP32 [i/128, rows]
//
// Schedule: as quantize_1x128, sixteen lanes per block; h never leaves FP32 registers. Rows that no expert uses are
// neither read nor written.
#pragma once
#include "kernels/exp.cuh"
#include "kernels/quantize_row.cuh"
#include "kernels/used_rows.cuh"
#include "params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

constexpr uint32_t swiglu_quantize_threads = 256;
constexpr uint32_t swiglu_quantize_smem_bytes = 0;

// NaN stays NaN under a clamp.
PTX_DEVICE float swiglu(float gate, float up, float clamp) {
  const float x = gate > clamp ? clamp : gate;
  const float y = up > clamp ? clamp : up < -clamp ? -clamp : up;
  return x / (1.0f + exp_f32(-x)) * y;
}

// h of eight neighbouring columns. With weights, a row without a slot (padding) is zero, whatever x holds.
PTX_DEVICE RowPiece swiglu_piece(const SwigluQuantizeParams& params, uint64_t row, uint64_t column) {
  constexpr uint32_t kPadding = 0xffffffffu;  // -1
  float weight = 1.0f;
  if (params.weights != nullptr) {
    const uint32_t slot = ptx::ldg_u32(params.row_slot + row);
    if (slot >= params.slots) {
      if (slot != kPadding) ptx::red_or_u32(params.error_word, FAULT_SEGMENT);
      return {};
    }
    weight = ptx::ldg_f32(params.weights + slot);
  }
  const uint16_t* gX = params.x + row * params.x_pitch + column;
  const RowPiece gate = load_piece(gX);
  const RowPiece up = load_piece(gX + static_cast<uint64_t>(params.k_blocks) * kQuantizeBlock);
  RowPiece h;
#pragma unroll
  for (uint32_t i = 0; i < kLaneElements; ++i) h.x[i] = swiglu(gate.x[i], up.x[i], params.clamp) * weight;
  return h;
}

PTX_DEVICE void swiglu_quantize_kernel(const SwigluQuantizeParams& params) {
  constexpr uint32_t kBlocksPerCta = swiglu_quantize_threads / kLanesPerRow;
  const uint32_t thread = ptx::thread_idx();
  const uint64_t block = static_cast<uint64_t>(ptx::block_idx()) * kBlocksPerCta + thread / kLanesPerRow;
  const uint64_t row = block / params.k_blocks;
  const uint64_t g = block % params.k_blocks;
  const uint64_t column = g * kQuantizeBlock + thread % kLanesPerRow * kLaneElements;
  const bool used =
      row < params.used.total && row_in_use(params.used, static_cast<uint32_t>(row), params.error_word);

  RowPiece h = {};
  if (used) h = swiglu_piece(params, row, column);
  const BlockScale scale = scale_of_block(h, params.scale_format);
  if (!used) return;
  store_block(params.q + row * params.q_pitch + column, params.sf + g * params.sf_pitch + row, h, scale,
              params.error_word);
}
