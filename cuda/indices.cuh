// How kernels read lists of indices: whatever their width, as 32 bits, in which what does not fit is no index either.
#pragma once
#include <cstdint>

#include "indices.h"
#include "ptx/gmem.h"
#include "ptx/target.h"

// The words of an index, not looked at yet: who asks early does not wait.
struct IndexWords {
  int32_t low, high;  // of 32 bits: the same
};

PTX_DEVICE IndexWords load_index_words(const Indices& indices, uint64_t row, uint64_t column) {
  const int32_t* gWords = indices.words + row * indices.pitch + column * indices.words_per_index;
  return {static_cast<int32_t>(ptx::ldg_u32(gWords)),
          static_cast<int32_t>(ptx::ldg_u32(gWords + (indices.words_per_index - 1)))};
}

PTX_DEVICE int32_t index_of(const Indices& indices, IndexWords words) {
  const auto [low, high] = words;
  return indices.words_per_index == 1 || high == low >> 31 ? low : INT32_MIN;
}

// Index `column` of `row`. INT32_MIN, of which no list thinks well, stands for 64 bits that 32 cannot hold; unsigned 32
// bits above INT32_MAX arrive as negative ones, of which only -1 means something.
PTX_DEVICE int32_t load_index(const Indices& indices, uint64_t row, uint64_t column) {
  return index_of(indices, load_index_words(indices, row, column));
}
