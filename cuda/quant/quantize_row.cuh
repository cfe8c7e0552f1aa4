// What the quantisers do with the elements of a row that a lane holds.
#pragma once
#include <bit>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/cta/warp_reduce.cuh"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/params.h"
#include "quant/scale.h"

namespace quant {

constexpr uint32_t kQuantizeBlock = 128;  // elements of K under one scale
constexpr uint32_t kLanesPerRow = kQuantizeBlock / kPieceElements;

// Blocks of a row; the last one may be short.
constexpr uint32_t quantize_blocks(uint32_t k) { return k / kQuantizeBlock + (k % kQuantizeBlock != 0); }

constexpr float max_of(float a, float b) { return a > b ? a : b; }

// The greatest of the magnitudes as integers, which have the order of the numbers; Inf and NaN lie above.
template <uint32_t Elements>
PTX_DEVICE uint32_t greatest_magnitude(const float (&x)[Elements]) {
  uint32_t greatest = 0;
#pragma unroll
  for (uint32_t i = 0; i < Elements; ++i) {
    const uint32_t magnitude = magnitude_bits(x[i]);
    greatest = greatest > magnitude ? greatest : magnitude;
  }
  return greatest;
}

// Hardly ever is there anything else than finite elements.
template <uint32_t Elements>
PTX_DEVICE float finite_amax(const float (&x)[Elements]) {
  const uint32_t greatest = greatest_magnitude(x);
  if (greatest < kInfinityBits) return std::bit_cast<float>(greatest);
  float amax = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < Elements; ++i) amax = max_of(amax, finite_magnitude(x[i]));
  return amax;
}

// x <- what its codes are rounded from.
template <uint32_t Elements>
PTX_DEVICE void scale_elements(float (&x)[Elements], BlockScale scale) {
#pragma unroll
  for (uint32_t i = 0; i < Elements; ++i) {
    const float product = x[i] * scale.factor;
    // x / scale, rounded once: the product with the rounded reciprocal, corrected by what it leaves (Markstein), but for zeros,
    // whose sign stays, and Inf. Nothing underflows that a code could tell.
    const float left = ptx::fma_rn(-product, scale.scale, x[i]);
    const bool corrected = scale.divides && magnitude_bits(product) - 1 < kInfinityBits - 1;
    x[i] = corrected ? ptx::fma_rn(left, scale.factor, product) : product;
  }
}

// The codes of four elements, the first one lowest: an Inf saturates, a NaN stays NaN, each alone.
PTX_DEVICE uint32_t four_codes(const float* x) {
  return ptx::cvt_e4m3x2(x[1], x[0]) | ptx::cvt_e4m3x2(x[3], x[2]) << 16;
}

// gQ <- E4M3 [8].
PTX_DEVICE void store_piece(uint8_t* gQ, Piece piece, BlockScale scale) {
  scale_elements(piece.x, scale);
  ptx::stg_v2_u32(gQ, four_codes(piece.x), four_codes(piece.x + 4));
}

template <uint32_t Elements>
PTX_DEVICE void report_nonfinite(uint32_t* error_words, const float (&x)[Elements]) {
  if (greatest_magnitude(x) >= kInfinityBits) report_fault(error_words, FAULT_NONFINITE_INPUT);
}

// The scale of the 1x128 block that sixteen neighbouring lanes hold; every lane of the warp comes here.
PTX_DEVICE BlockScale scale_of_block(const Piece& piece, const QuantizeRule& rule) {
  return block_scale(warp_reduce<kLanesPerRow>(finite_amax(piece.x), max_of), rule);
}

// The lane's eight codes to gQ, the block's scale to gSf. Every block has elements of its first lane.
PTX_DEVICE void store_block(uint8_t* gQ, float* gSf, const Piece& piece, BlockScale scale, uint32_t* error_words) {
  store_piece(gQ, piece, scale);
  if (ptx::thread_idx() % kLanesPerRow == 0) ptx::stg_f32(gSf, scale.scale);
  report_nonfinite(error_words, piece.x);
}

}  // namespace quant
