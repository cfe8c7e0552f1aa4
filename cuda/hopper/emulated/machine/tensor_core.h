// The arithmetic of the tensor core, without memory or time (docs/numerics.md, "Tensor-core model").
//
// One fused sum adds L exact products to the accumulator c: every term is cut toward zero to a multiple of 2^(E - F),
// where E is the largest exponent among the products and c, the cut terms are added exactly, and the sum is cut again
// to the result's fraction bits.
#pragma once
#include <cstdint>

namespace emu {

constexpr uint32_t kFusedE4m3 = 32;  // products per fused sum
constexpr uint32_t kFusedBf16 = 16;
constexpr uint32_t kTileRows = 64;  // rows of D of one wgmma
constexpr uint32_t kMaxColumns = 256;

// d [64, columns] <- a [64, 32] . b [columns, 32]^T, plus what d holds if `keep`.
void multiply_e4m3(float* d, uint32_t columns, const uint8_t (*a)[kFusedE4m3], const uint8_t (*b)[kFusedE4m3],
                   bool keep);
// d [64, columns] <- a [64, 16] . b [columns, 16]^T, plus what d holds if `keep`.
void multiply_bf16(float* d, uint32_t columns, const uint16_t (*a)[kFusedBf16], const uint16_t (*b)[kFusedBf16],
                   bool keep);

float e4m3_to_f32(uint8_t code);
float bf16_to_f32(uint16_t code);
// To nearest even, saturating to +-448; NaN stays NaN.
uint8_t f32_to_e4m3(float x);
// To nearest even; NaN becomes 0x7fff, as the hardware's conversion has it.
uint16_t f32_to_bf16(float x);
// Subnormal numbers become 0 with their sign, as under ".ftz".
float flush(float x);

}  // namespace emu
