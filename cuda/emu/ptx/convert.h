// Arithmetic and conversions.
#pragma once
#include <bit>
#include <cmath>

#include "emu/tensor_core.h"
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE float fma_rn(float a, float b, float c) { return std::fmaf(a, b, c); }

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

}  // namespace ptx
