// How a quantiser turns the largest magnitude of a block into a scale (docs/numerics.md, "Quantiser").
#pragma once
#include <bit>
#include <cstdint>

#include "quant/params.h"

namespace quant {

// Largest finite E4M3 value.
constexpr float kE4m3Max = 448.0f;

constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint32_t magnitude_bits(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffffu; }

// Dequantised value = code * `scale`; code = round(value * `factor`), or, where it divides, round(value / `scale`).
struct BlockScale {
  float scale, factor;
  bool divides;
};

// Rounds up to a power of two: any mantissa bit carries into the exponent.
constexpr float ceil_power_of_two(float x) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x007fffffu) & 0x7f800000u);
}

// What values are multiplied with comes first, and the scale is its reciprocal.
constexpr BlockScale inverse_scale(float amax, uint32_t scale_format) {
  constexpr float kLargestBf16 = 0x1.fep127f;
  if (amax == 0.0f) return {1.0f, 1.0f, false};
  float factor = kE4m3Max / amax;
  if (magnitude_bits(factor) == kInfinityBits) factor = kLargestBf16;
  if (scale_format == SCALE_POWER_OF_TWO) {
    factor = std::bit_cast<float>(std::bit_cast<uint32_t>(factor) & kInfinityBits);
  }
  return {1.0f / factor, factor, false};
}

// `amax` is taken over the finite elements of the block.
constexpr BlockScale block_scale(float amax, const QuantizeRule& rule) {
  const float floored = amax < rule.amax_floor ? rule.amax_floor : amax;
  if (rule.formula == CODES_BY_INVERSE) return inverse_scale(floored, rule.scale_format);
  const float scale = floored / kE4m3Max;
  if (rule.scale_format == SCALE_POWER_OF_TWO) {  // exact, whatever the formula
    const float power = ceil_power_of_two(scale);
    return {power, 1.0f / power, false};
  }
  const float factor = rule.formula == CODES_BY_RATIO ? kE4m3Max / floored : 1.0f / scale;
  return {scale, factor, rule.formula == CODES_BY_QUOTIENT};
}

// Of a block in the KV cache: here the scale is floored, not amax, as FlashMLA does.
constexpr float kCacheScaleFloor = 1e-4f;
constexpr float cache_scale(float amax, uint32_t scale_format) {
  const float scale = amax / kE4m3Max;
  const float floored = scale < kCacheScaleFloor ? kCacheScaleFloor : scale;
  return scale_format == SCALE_POWER_OF_TWO ? ceil_power_of_two(floored) : floored;
}

// |x| of a BF16 or FP32 value, 0 for Inf and NaN: a block's amax ignores them.
constexpr float finite_magnitude(float x) {
  const uint32_t magnitude = magnitude_bits(x);
  return magnitude < kInfinityBits ? std::bit_cast<float>(magnitude) : 0.0f;
}

}  // namespace quant
