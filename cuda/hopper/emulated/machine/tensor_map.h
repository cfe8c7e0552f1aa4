// Tensor maps: the emulator's own encoding inside the 128 opaque bytes.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

#include "hopper/emulated/machine/emu.h"

namespace emu {

constexpr uint32_t kMaxRank = 5;

struct TensorMapCode {
  uint64_t magic;
  uint8_t* base;
  uint64_t strides[kMaxRank - 1];  // bytes, of dimensions 1, 2, ...
  uint32_t last[kMaxRank];         // size of each dimension, minus 1: it may be 2^32
  uint16_t box[kMaxRank];
  uint8_t rank, element_bytes, span;  // span of the swizzle in bytes, 0: none

  uint32_t row_bytes() const { return box[0] * element_bytes; }
  uint32_t rows() const;
  uint32_t bytes() const { return rows() * row_bytes(); }
  // Of a box in shared memory. A swizzle goes by the address, eight rows at a time: a box of fewer rows lies within those.
  uint32_t alignment() const { return span == 0 ? 128 : span * std::min(8u, std::bit_ceil(rows())); }
  // Where the byte at `addr`, before swizzling, lies.
  uint32_t swizzled(uint32_t addr) const { return span == 0 ? addr : addr ^ (addr >> 3 & (span - 16)); }
};
static_assert(sizeof(TensorMapCode) <= sizeof(TensorMap));

// Null when nothing was ever encoded there.
const TensorMapCode* decode(const TensorMap& map);

// TMA moves whole units: a box starts at one, along the fastest dimension.
constexpr uint32_t kTmaUnit = 16;

// The part of one row of a box that is copied: bytes [skip, skip + bytes) of the row, at `memory`. A load copies what lies
// inside the tensor; a store the rest of the tensor's last unit too, as an H100 does.
struct RowPart {
  uint8_t* memory;
  uint32_t skip, bytes;
};
RowPart row_part(const TensorMapCode& map, const int32_t* coordinates, uint32_t row, bool store);

}  // namespace emu
