// A piece of a row: eight neighbouring elements, what a thread moves at once. 16 bytes of BF16, or 32 of FP32.
#pragma once
#include <bit>
#include <cstdint>

#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/target.h"

constexpr uint32_t kPieceElements = 8;

struct Piece {
  float x[kPieceElements];
};

// The FP32 bits of four elements from `first` on, as they are stored.
PTX_DEVICE ptx::U32x4 piece_bits(const Piece& piece, uint32_t first) {
  const auto bits = [&](uint32_t i) { return std::bit_cast<uint32_t>(piece.x[first + i]); };
  return {bits(0), bits(1), bits(2), bits(3)};
}

// v: BF16 [8].
PTX_DEVICE Piece bf16_piece(ptx::U32x4 v) {
  return {{ptx::bf16_lo_f32(v.x), ptx::bf16_hi_f32(v.x), ptx::bf16_lo_f32(v.y), ptx::bf16_hi_f32(v.y),
           ptx::bf16_lo_f32(v.z), ptx::bf16_hi_f32(v.z), ptx::bf16_lo_f32(v.w), ptx::bf16_hi_f32(v.w)}};
}

// gX: BF16 [8], 16-byte aligned.
PTX_DEVICE Piece load_bf16_piece(const uint16_t* gX) { return bf16_piece(ptx::ldg_v4_u32(gX)); }

// BF16 [8], each rounded to nearest even.
PTX_DEVICE ptx::U32x4 bf16_bits(const Piece& piece) {
  const float(&x)[kPieceElements] = piece.x;
  return {ptx::cvt_bf16x2(x[1], x[0]), ptx::cvt_bf16x2(x[3], x[2]), ptx::cvt_bf16x2(x[5], x[4]),
          ptx::cvt_bf16x2(x[7], x[6])};
}

// gX <- BF16 [8], each rounded to nearest even.
PTX_DEVICE void store_bf16_piece(uint16_t* gX, const Piece& piece) { ptx::stg_v4_u32(gX, bf16_bits(piece)); }

// gX: FP32 [8], 16-byte aligned.
PTX_DEVICE Piece load_f32_piece(const float* gX) {
  const ptx::U32x4 low = ptx::ldg_v4_u32(gX), high = ptx::ldg_v4_u32(gX + 4);
  const uint32_t words[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  Piece piece;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) piece.x[i] = std::bit_cast<float>(words[i]);
  return piece;
}

PTX_DEVICE void store_f32_piece(float* gX, const Piece& piece) {
  ptx::stg_v4_u32(gX, piece_bits(piece, 0));
  ptx::stg_v4_u32(gX + 4, piece_bits(piece, 4));
}
