// What kernels report of data, in plain C for the kernels (C++) and for the host (Rust, through bindgen).
#pragma once

// What a kernel can find wrong with data that the host cannot see: one of the device's error words each, so that a report
// is a store that no other can undo.
typedef enum DeviceFault {
  FAULT_NONFINITE_INPUT,  // a quantiser met Inf or NaN, or was given a scale of 0
  FAULT_SEGMENT,          // the rows of an expert are not within the rows there are, or not in order
  FAULT_EXPERT_ID,        // an expert id is neither -1 nor one of the experts
  FAULT_CACHE_SLOT,       // a slot is neither -1 nor a row of the cache
  FAULT_PAGE_ID,          // a page table names a page that the cache does not have
  FAULT_SEQUENCE_LENGTH,  // a sequence is longer than its pages, or all are longer than said, a length is negative, or offsets are out of order
  FAULT_POSITION,         // a position is not in the table of angles
  FAULT_NONFINITE_SCORE,  // a router met Inf or NaN in what it chooses by, or attention a row of nothing but -Inf
  FAULT_KINDS,
} DeviceFault;
