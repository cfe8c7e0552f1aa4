// Where the elements of a matrix lie when its rows, or its columns, do not follow each other without a gap.
#pragma once
#include <cstdint>

// Of the `index`-th element, counted row by row.
constexpr uint64_t pitched(uint32_t index, uint32_t columns, uint64_t pitch) {
  return index / columns * pitch + index % columns;
}

// The same where columns are apart too.
constexpr uint64_t strided(uint32_t index, uint32_t columns, uint64_t row_stride, uint64_t column_stride) {
  return index / columns * row_stride + index % columns * column_stride;
}
