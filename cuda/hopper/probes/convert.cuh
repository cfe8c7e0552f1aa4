// Conversions of the bit patterns start + (i << shift), i < count, and arithmetic on given operands.
//
//   arguments  operation, start, shift, count
//   input      for kFma: a, b, c as FP32 bits  [count, 3]
//   output     kE4m3: codes, four a word · kBf16: two a word · kUnpack: low half, high half as FP32 bits [count, 2]
//              kFma: fma_rn(a, b, c), a * b + c  [count, 2] · kApprox: ex2, lg2  [count, 2]
//              kE4m3Decode: low byte, next byte as FP32 bits  [count, 2]
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

enum class ProbeConversion : uint32_t { kE4m3, kBf16, kUnpack, kFma, kApprox, kE4m3Decode };

PTX_DEVICE void probe_convert_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 128;
  enter_grid();
  const ProbeConversion operation = static_cast<ProbeConversion>(params.arguments[0]);
  const uint32_t count = params.arguments[3];
  const auto bits = [&](uint32_t i) { return params.arguments[1] + (i << params.arguments[2]); };
  const auto value = [&](uint32_t i) { return std::bit_cast<float>(bits(i)); };
  const uint32_t first = ptx::cta_idx() * kThreads + ptx::thread_idx(), step = ptx::grid_dim() * kThreads;
  if (operation == ProbeConversion::kE4m3) {
    for (uint32_t i = first; i < count / 8; i += step) {
      uint32_t pair[4];
      for (uint32_t j = 0; j < 4; ++j) pair[j] = ptx::cvt_e4m3x2(value(8 * i + 2 * j + 1), value(8 * i + 2 * j));
      ptx::stg_v2_u32(params.output + 2 * i, pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
    }
  } else if (operation == ProbeConversion::kBf16) {
    for (uint32_t i = first; i < count / 4; i += step) {
      const uint32_t low = ptx::cvt_bf16x2(value(4 * i + 1), value(4 * i));
      ptx::stg_v2_u32(params.output + 2 * i, low, ptx::cvt_bf16x2(value(4 * i + 3), value(4 * i + 2)));
    }
  } else if (operation == ProbeConversion::kUnpack) {
    for (uint32_t i = first; i < count; i += step) {
      ptx::stg_v2_u32(params.output + 2 * static_cast<uint64_t>(i), std::bit_cast<uint32_t>(ptx::bf16_lo_f32(bits(i))),
                      std::bit_cast<uint32_t>(ptx::bf16_hi_f32(bits(i))));
    }
  } else if (operation == ProbeConversion::kApprox) {
    for (uint32_t i = first; i < count; i += step) {
      ptx::stg_v2_u32(params.output + 2 * static_cast<uint64_t>(i), std::bit_cast<uint32_t>(ptx::ex2_approx(value(i))),
                      std::bit_cast<uint32_t>(ptx::lg2_approx(value(i))));
    }
  } else if (operation == ProbeConversion::kE4m3Decode) {
    for (uint32_t i = first; i < count; i += step) {
      const ptx::F32x2 x = ptx::e4m3x2_f32(bits(i));
      ptx::stg_v2_u32(params.output + 2 * i, std::bit_cast<uint32_t>(x.lo), std::bit_cast<uint32_t>(x.hi));
    }
  } else {
    for (uint32_t i = first; i < count; i += step) {
      float x[3];
      for (uint32_t j = 0; j < 3; ++j) x[j] = std::bit_cast<float>(ptx::ld_global_u32(params.input + 3 * i + j));
      ptx::stg_v2_u32(params.output + 2 * i, std::bit_cast<uint32_t>(ptx::fma_rn(x[0], x[1], x[2])),
                      std::bit_cast<uint32_t>(x[0] * x[1] + x[2]));
    }
  }
}
