// Where the elements of a matrix lie when its rows, or its columns, do not follow each other without a gap.
#pragma once
#include <cstdint>

// Of the `index`-th element, counted row by row.
constexpr uint64_t pitched(uint32_t index, uint32_t columns, uint64_t pitch) {
  return index / columns * pitch + index % columns;
}
