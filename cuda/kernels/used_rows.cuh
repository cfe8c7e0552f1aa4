// Which rows experts use, from what routing left on the device; nothing that stands there can lead outside.
#pragma once
#include <cstdint>

#include "params.h"
#include "ptx/gmem.h"
#include "ptx/target.h"
#include "tile/segments.h"

// Of a row below `used.total`. Ragged segments fill the rows from 0 on, so that only their last end matters.
PTX_DEVICE bool row_in_use(const UsedRows& used, uint32_t row, uint32_t* error_word) {
  const bool masked = used.max_rows != 0;
  const uint32_t expert = masked ? row / used.max_rows : used.experts;
  const int32_t stored = static_cast<int32_t>(ptx::ldg_u32(used.rows + expert));
  const Segment segment =
      masked ? masked_segment(expert, stored, used.max_rows) : ragged_segment(0, stored, used.total);
  if (segment.clamped && row == segment.row) ptx::red_or_u32(error_word, FAULT_SEGMENT);
  return row < segment.row_end;
}
