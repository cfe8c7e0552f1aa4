// Shared-memory swizzles: the 16-byte chunks of a row are permuted by the row's number, so that a column of chunks
// touches all banks. PTX ISA, "Asynchronous Data Movement: swizzling modes".
#pragma once
#include <cstdint>

// The swizzle that spreads rows of `Span` bytes (32, 64 or 128). It acts on absolute shared addresses: address bits
// 7, 8 and 9, as far as the span reaches, are added to chunk bits 4, 5 and 6.
template <int Span>
constexpr uint32_t swizzle(uint32_t addr) {
  static_assert(Span == 32 || Span == 64 || Span == 128, "the three spans that TMA knows");
  return addr ^ ((addr >> 3) & (Span - 16));
}

// Bytes of eight swizzled rows: the pattern repeats after them, so a tile must start at a multiple of 8 rows.
template <int Span>
constexpr uint32_t kSwizzleAtom = 8 * Span;
