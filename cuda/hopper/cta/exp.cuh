// exp(x) in FP32 with the same bits on every machine: hardware's ex2.approx is neither exact nor specified to the bit,
// and a router's choice or a quantised code must not depend on it.
#pragma once
#include <bit>
#include <cstdint>

#include "ptx/convert.h"
#include "ptx/target.h"

// Within 1 ulp of exp(x); 0 below -104, Inf above 88.8, NaN for NaN. Cody and Waite's reduction to |r| <= ln 2 / 2, a
// polynomial, and a scaling in two steps, so that subnormal results round once.
PTX_DEVICE float exp_f32(float x) {
  constexpr float kLog2E = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e4p-1f;  // 15 bits: n * kLn2High is exact
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  constexpr float kRound = 0x1.8p+23f;  // adding it rounds to an integer
  const float clamped = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  const float n = ptx::fma_rn(clamped, kLog2E, kRound) - kRound;
  float r = ptx::fma_rn(n, -kLn2High, clamped);
  r = ptx::fma_rn(n, -kLn2Low, r);
  float p = 0x1.a01a02p-13f;  // 1/7!
  p = ptx::fma_rn(p, r, 0x1.6c16c2p-10f);
  p = ptx::fma_rn(p, r, 0x1.111112p-7f);
  p = ptx::fma_rn(p, r, 0x1.555556p-5f);
  p = ptx::fma_rn(p, r, 0x1.555556p-3f);
  p = ptx::fma_rn(p, r, 0.5f);
  p = ptx::fma_rn(p, r, 1.0f);
  p = ptx::fma_rn(p, r, 1.0f);
  const int32_t half = static_cast<int32_t>(n) / 2;
  const int32_t rest = static_cast<int32_t>(n) - half;
  const float scale_half = std::bit_cast<float>((half + 127) << 23);
  const float scale_rest = std::bit_cast<float>((rest + 127) << 23);
  return p * scale_half * scale_rest;
}

// 1 / (1 + exp(-x)).
PTX_DEVICE float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }
