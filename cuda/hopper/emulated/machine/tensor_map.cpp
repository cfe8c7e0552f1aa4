#include "hopper/emulated/machine/tensor_map.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace emu {
namespace {

constexpr uint64_t kMagic = 0x70616d2d75706f48;

constexpr uint32_t kElementBytes[] = {1, 2, 4};
constexpr uint32_t kSpan[] = {0, 32, 64, 128};

// The driver's rules, in the order of its documentation. Null: all hold.
const char* broken_rule(const EmuTensorMapSpec& spec, const TensorMap* map) {
  if (reinterpret_cast<uintptr_t>(map) % 128 != 0) return "the map must be 128-byte aligned";
  if (spec.element > EMU_F32) return "unknown element type";
  if (spec.swizzle > EMU_SWIZZLE_128B) return "unknown swizzle";
  if (spec.rank < 2 || spec.rank > kMaxRank) return "rank must be 2 to 5";
  if (spec.base == nullptr || reinterpret_cast<uintptr_t>(spec.base) % 16 != 0) return "base must be 16-byte aligned";
  for (uint32_t i = 0; i < spec.rank; ++i) {
    if (spec.dims[i] == 0 || spec.dims[i] > uint64_t{1} << 32) return "dimensions must be 1 to 2^32";
    if (spec.box[i] == 0 || spec.box[i] > 256) return "box sizes must be 1 to 256";
  }
  for (uint32_t i = 0; i + 1 < spec.rank; ++i) {
    if (spec.strides[i] % 16 != 0) return "strides must be multiples of 16 bytes";
    if (spec.strides[i] >= uint64_t{1} << 40) return "strides must be below 2^40 bytes";
  }
  const uint32_t inner = spec.box[0] * kElementBytes[spec.element];
  if (inner % 16 != 0) return "the inner box size must be a multiple of 16 bytes";
  if (spec.swizzle != EMU_SWIZZLE_NONE && inner > kSpan[spec.swizzle]) {
    return "the inner box size must not exceed the span of the swizzle";
  }
  return nullptr;
}

}  // namespace

uint32_t TensorMapCode::rows() const {
  uint32_t rows = 1;
  for (uint32_t i = 1; i < rank; ++i) rows *= box[i];
  return rows;
}

const TensorMapCode* decode(const TensorMap& map) {
  const auto* code = reinterpret_cast<const TensorMapCode*>(map.opaque);
  return code->magic == kMagic ? code : nullptr;
}

RowPart row_part(const TensorMapCode& map, const int32_t* coordinates, uint32_t row, bool store) {
  uint8_t* memory = map.base;
  for (uint32_t i = 1; i < map.rank; ++i) {
    const int64_t at = int64_t{coordinates[i]} + row % map.box[i];
    row /= map.box[i];
    if (at < 0 || at > int64_t{map.last[i]}) return {nullptr, 0, 0};
    memory += at * static_cast<int64_t>(map.strides[i - 1]);
  }
  const int64_t x = coordinates[0];
  const int64_t first = std::max<int64_t>(x, 0);
  const int64_t unit = store ? kTmaUnit / map.element_bytes : 1;
  const int64_t size = (int64_t{map.last[0]} + unit) / unit * unit;
  const int64_t end = std::min<int64_t>(x + map.box[0], size);
  if (first >= end) return {nullptr, 0, 0};
  return {memory + first * map.element_bytes, static_cast<uint32_t>(first - x) * map.element_bytes,
          static_cast<uint32_t>(end - first) * map.element_bytes};
}

}  // namespace emu

int32_t emu_tensor_map_encode(const EmuTensorMapSpec* spec, TensorMap* map, char* message, uint64_t message_bytes) {
  if (const char* rule = emu::broken_rule(*spec, map)) {
    if (message != nullptr && message_bytes > 0) std::snprintf(message, message_bytes, "%s", rule);
    return 1;
  }
  emu::TensorMapCode code = {};
  code.magic = emu::kMagic;
  code.base = static_cast<uint8_t*>(const_cast<void*>(spec->base));
  code.rank = static_cast<uint8_t>(spec->rank);
  code.element_bytes = static_cast<uint8_t>(emu::kElementBytes[spec->element]);
  code.span = static_cast<uint8_t>(emu::kSpan[spec->swizzle]);
  for (uint32_t i = 0; i < spec->rank; ++i) {
    code.last[i] = static_cast<uint32_t>(spec->dims[i] - 1);
    code.box[i] = static_cast<uint16_t>(spec->box[i]);
  }
  for (uint32_t i = 0; i + 1 < spec->rank; ++i) code.strides[i] = spec->strides[i];
  *map = TensorMap{};
  std::memcpy(map->opaque, &code, sizeof code);
  return 0;
}
