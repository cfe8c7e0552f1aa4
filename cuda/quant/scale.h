// How a quantiser turns the largest magnitude of a block into a scale (docs/numerics.md, "Quantiser").
#pragma once
#include <bit>
#include <cstdint>

#include "quant/params.h"

namespace quant {

// Largest finite E4M3 value.
constexpr float kE4m3Max = 448.0f;
// Smaller blocks are quantised as if their largest magnitude were this: no division by zero, no overflow of 1 / scale.
constexpr float kAmaxFloor = 1e-4f;

// Dequantised value = code * `scale`; code = round(value * `multiplier`).
struct BlockScale {
  float scale, multiplier;
};

// Rounds up to a power of two: any mantissa bit carries into the exponent.
constexpr float ceil_power_of_two(float x) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x007fffffu) & 0x7f800000u);
}

// `amax` is taken over the finite elements of the block.
constexpr BlockScale block_scale(float amax, uint32_t scale_format) {
  const float floored = amax < kAmaxFloor ? kAmaxFloor : amax;
  const float scale = floored / kE4m3Max;
  if (scale_format == SCALE_POWER_OF_TWO) {
    const float power = ceil_power_of_two(scale);
    return {power, 1.0f / power};
  }
  return {scale, kE4m3Max / floored};
}

// Of a block in the KV cache: here the scale is floored, not amax, as FlashMLA does.
constexpr float kCacheScaleFloor = 1e-4f;
constexpr float cache_scale(float amax, uint32_t scale_format) {
  const float scale = amax / kE4m3Max;
  const float floored = scale < kCacheScaleFloor ? kCacheScaleFloor : scale;
  return scale_format == SCALE_POWER_OF_TWO ? ceil_power_of_two(floored) : floored;
}

constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint32_t magnitude_bits(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffffu; }

// |x| of a BF16 or FP32 value, 0 for Inf and NaN: a block's amax ignores them.
constexpr float finite_magnitude(float x) {
  const uint32_t magnitude = magnitude_bits(x);
  return magnitude < kInfinityBits ? std::bit_cast<float>(magnitude) : 0.0f;
}

}  // namespace quant
