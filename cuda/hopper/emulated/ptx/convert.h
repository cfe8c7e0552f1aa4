// Arithmetic and conversions.
#pragma once
#include <bit>
#include <cmath>

#include "hopper/emulated/machine/tensor_core.h"
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE float mul_rn(float a, float b) { return a * b; }

PTX_DEVICE float fma_rn(float a, float b, float c) { return std::fmaf(a, b, c); }

PTX_DEVICE float sqrt_rn(float x) { return std::sqrt(x); }

PTX_DEVICE float max_f32(float a, float b) { return std::fmax(a, b); }

PTX_DEVICE float ex2_approx(float x, Where where = Where::here()) {
  emu::check_settled(x, "ex2", where);
  ++emu::counts().exponentials;
  return emu::flush(static_cast<float>(std::exp2(static_cast<double>(emu::flush(x)))));
}
PTX_DEVICE float lg2_approx(float x, Where where = Where::here()) {
  emu::check_settled(x, "lg2", where);
  ++emu::counts().logarithms;
  return emu::flush(static_cast<float>(std::log2(static_cast<double>(emu::flush(x)))));
}

PTX_DEVICE float bf16_lo_f32(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
PTX_DEVICE float bf16_hi_f32(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

PTX_DEVICE uint32_t cvt_bf16x2(float hi, float lo, Where where = Where::here()) {
  emu::check_settled(hi, "conversion", where);
  emu::check_settled(lo, "conversion", where);
  return static_cast<uint32_t>(emu::f32_to_bf16(hi)) << 16 | emu::f32_to_bf16(lo);
}

PTX_DEVICE uint32_t cvt_e4m3x2(float hi, float lo, Where where = Where::here()) {
  emu::check_settled(hi, "conversion", where);
  emu::check_settled(lo, "conversion", where);
  return static_cast<uint32_t>(emu::f32_to_e4m3(hi)) << 8 | emu::f32_to_e4m3(lo);
}

PTX_DEVICE F32x2 e4m3x2_f32(uint32_t pair) {
  return {emu::e4m3_to_f32(static_cast<uint8_t>(pair)), emu::e4m3_to_f32(static_cast<uint8_t>(pair >> 8))};
}

}  // namespace ptx
