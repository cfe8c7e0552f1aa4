// Arithmetic and conversions whose rounding is part of the contract. nvcc runs with -fmad=false and g++ with
// -ffp-contract=off, so a product and a sum written apart are rounded twice on both machines.
#pragma once
#include "ptx/target.h"

namespace ptx {

// a * b, rounded to nearest even; unlike those of `a * b`, nvcc does not make a choice between two products one between
// their factors. "mul.rn.f32".
PTX_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }

// a * b + c with one rounding, to nearest even. "fma.rn.f32".
PTX_DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// The square root with one rounding, to nearest even. "sqrt.rn.f32".
PTX_DEVICE float sqrt_rn(float x) { return __fsqrt_rn(x); }

// The greater of two; of a number and a NaN, the number. "max.f32".
PTX_DEVICE float max_f32(float a, float b) { return fmaxf(a, b); }

// 2^x and log2(x), as the hardware approximates them: within 2^-22 of the result, and of 1 where a
// logarithm is less. Subnormal operands and results count as 0; 2^-Inf is 0. "ex2.approx.ftz.f32", "lg2.approx.ftz.f32".
PTX_DEVICE float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PTX_DEVICE float lg2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

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

// The two E4M3 codes in the low half of `pair` as FP32; exact. "cvt.rn.f16x2.e4m3x2", "cvt.f32.f16".
PTX_DEVICE F32x2 e4m3x2_f32(uint32_t pair) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(pair)));
  F32x2 value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value.lo) : "h"(static_cast<uint16_t>(halves)));
  asm("cvt.f32.f16 %0, %1;" : "=f"(value.hi) : "h"(static_cast<uint16_t>(halves >> 16)));
  return value;
}

}  // namespace ptx
