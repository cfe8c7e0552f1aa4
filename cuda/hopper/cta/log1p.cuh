// log(1 + x) for 0 <= x <= 1 in FP32 with the same bits on every machine, as exp.cuh has exp.
#pragma once
#include "ptx/convert.h"
#include "ptx/target.h"

// Within 1 ulp; NaN for NaN. Above 1/2 the argument is halved, 1 + x = 2 (1 + (x - 1) / 2), which is exact. Then
// log(1 + f) = f - s (f - r) with s = f / (2 + f) and r = 2/3 s^2 + 2/5 s^4 + ..., |s| <= 1/5.
PTX_DEVICE float log1p_f32(float x) {
  constexpr float kLn2 = 0x1.62e43p-1f;
  const bool halved = x > 0.5f;
  const float f = halved ? (x - 1.0f) * 0.5f : x;
  const float s = f / (2.0f + f);
  const float z = s * s;
  float r = 0x1.745d18p-3f;  // 2/11
  r = ptx::fma_rn(r, z, 0x1.c71c72p-3f);
  r = ptx::fma_rn(r, z, 0x1.24924ap-2f);
  r = ptx::fma_rn(r, z, 0x1.99999ap-2f);
  r = ptx::fma_rn(r, z, 0x1.555556p-1f);
  const float log = ptx::fma_rn(-s, ptx::fma_rn(-r, z, f), f);
  return halved ? kLn2 + log : log;
}
