// Arithmetic and conversions whose rounding is part of the contract. nvcc runs with -fmad=false and g++ with
// -ffp-contract=off, so a product and a sum written apart are rounded twice on both machines.
#pragma once
#include "ptx/target.h"

namespace ptx {

// a * b + c with one rounding, to nearest even. "fma.rn.f32".
PTX_DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Two BF16 values (`lo` in the low half) as FP32; exact.
PTX_DEVICE float bf16_lo_f32(uint32_t pair) { return __uint_as_float(pair << 16); }
PTX_DEVICE float bf16_hi_f32(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Two FP32 to BF16, nearest even, `lo` in the low half. "cvt.rn.bf16x2.f32 d, a, b" puts a in the upper half.
PTX_DEVICE uint32_t cvt_bf16x2(float hi, float lo) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
  return pair;
}

// Two FP32 to E4M3, nearest even, saturating to +-448, `lo` in the low byte. "cvt.rn.satfinite.e4m3x2.f32".
PTX_DEVICE uint32_t cvt_e4m3x2(float hi, float lo) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(hi), "f"(lo));
  return pair;
}

}  // namespace ptx
