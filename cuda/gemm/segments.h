// Rows of an expert: from what routing left in device memory, made safe. Nothing that stands there can lead outside.
#pragma once
#include <cstdint>

namespace gemm {

// Rows [row, row_end) of A and D.
struct Segment {
  uint32_t row, row_end;
  bool clamped;  // what stood there was no segment: `row_end` is the nearest that is one
};

// TMA fetches the scales of A along the rows, and starts at multiples of 16 bytes.
constexpr uint32_t kSegmentAlignment = 16 / sizeof(float);

// The first row that a segment's tiles fetch; it may be another segment's.
constexpr uint32_t first_fetched(uint32_t row) { return row / kSegmentAlignment * kSegmentAlignment; }

// Tiles of `tile_rows` rows that a segment takes, along M.
constexpr uint32_t segment_tiles(uint32_t row, uint32_t row_end, uint32_t tile_rows) {
  return row_end > row ? (row_end - first_fetched(row) + tile_rows - 1) / tile_rows : 0;
}

// Segments that follow each other: the expert's end, after the furthest `before` it, among `rows` rows.
constexpr Segment ragged_segment(int32_t before, int32_t end, uint32_t rows) {
  const int32_t limit = static_cast<int32_t>(rows);
  const int32_t row = before < limit ? before : limit;
  const int32_t row_end = end < row ? row : end < limit ? end : limit;
  return {static_cast<uint32_t>(row), static_cast<uint32_t>(row_end), row_end != end};
}

// Segments of `max_rows` rows each, of which the first `count` are used.
constexpr Segment masked_segment(uint32_t expert, int32_t count, uint32_t max_rows) {
  const int32_t limit = static_cast<int32_t>(max_rows);
  const int32_t used = count < 0 ? 0 : count < limit ? count : limit;
  const uint32_t row = expert * max_rows;
  return {row, row + static_cast<uint32_t>(used), used != count};
}

}  // namespace gemm
