// Lists of indices that an engine gives, in plain C for the kernels (C++) and for the host (Rust, through bindgen).
#pragma once
#include <stdint.h>

// [rows, columns] of signed or unsigned 32 bits, or of signed 64.
typedef struct Indices {
  const int32_t* words;
  uint64_t pitch;            // words from row to row
  uint32_t words_per_index;  // 1 or 2, the low one first
} Indices;
