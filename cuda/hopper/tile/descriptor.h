// Shared-memory matrix descriptors of wgmma. PTX ISA, "Matrix Descriptor Format".
#pragma once
#include <cstdint>

// Describes a K-major tile whose rows are 128 bytes apart and 128-byte swizzled, starting at `addr`: bits 0-13 the
// address, 32-45 the distance between groups of eight rows (both in 16-byte units), 62-63 the swizzle (1: 128 bytes).
// The leading-dimension offset, bits 16-29, is ignored for swizzled K-major tiles.
constexpr uint64_t descriptor_k_major_128b(uint32_t addr) {
  constexpr uint64_t kGroupBytes = 8 * 128;
  constexpr uint64_t kSwizzle128 = 1;
  return static_cast<uint64_t>((addr & 0x3ffff) >> 4) | (kGroupBytes >> 4) << 32 | kSwizzle128 << 62;
}

// Describes an N-major BF16 tile: rows of K, in chunks of 64 columns along N. Within a chunk a row is 128 bytes of
// columns, 128-byte swizzled, and the next row follows: bits 32-45 are the distance between groups of eight of them. The
// next chunk is `chunk_bytes` further: bits 16-29, in 16-byte units, unused if the tile is no wider than a chunk.
constexpr uint64_t descriptor_mn_major_128b(uint32_t addr, uint32_t chunk_bytes) {
  return descriptor_k_major_128b(addr) | static_cast<uint64_t>(chunk_bytes >> 4) << 16;
}

// The same tile `bytes` further along K. K-major: within the 128-byte row; the swizzle acts on the final address, so only the
// start moves. N-major: whole groups of eight rows.
constexpr uint64_t descriptor_advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }
