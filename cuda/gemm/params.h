// The parameter structs of this family's launches, in plain C: one truth for the kernels (C++) and for the host (Rust,
// through bindgen: `cargo xtask bindings`). Shapes stand in brackets, slowest dimension first.
#pragma once
#include <stdint.h>

#include "hopper/tensor_map.h"

// D = sum over K blocks g of sfa[:, g] * sfb[:, g] * (A_g . B_g^T), optionally added to what D holds.
typedef struct Fp8GemmParams {
  TensorMap map_a;      // E4M3 [m, k], box [a_box_rows, 128], 128-byte swizzle
  TensorMap map_b;      // E4M3 [matrices, n, k]: one an expert (dense: one), or two, gate and up;
                        // box [1, block_n / cluster, 128], 128-byte swizzle
  TensorMap map_sfa;    // FP32 [ceil(k/128), m], box [1, a_box_rows]
  TensorMap map_d;      // BF16 or FP32 [m, n], box [64, up to 128 bytes], swizzled by the box width
  const float* sfb;     // FP32 [matrices, ceil(n/128), sfb_pitch], one scale per 128x128 block of B
  void* d;              // [m, d_pitch]; read when `accumulate`, written where a map cannot clip
  uint64_t d_pitch;     // elements
  uint64_t sfb_stride;   // elements from one matrix's scales to the next
  uint32_t sfb_pitch;   // elements
  uint32_t m, n;
  uint32_t k_blocks;    // ceil(k/128); 0 writes zeros (or leaves D when accumulating)
  uint32_t accumulate;  // 0 or 1: out = round(sum + D)
  uint32_t a_box_rows;  // block_m, or where A has fewer rows, those, in whole swizzle atoms of 8
} Fp8GemmParams;

// D[rows of e] = the GEMM of those rows of A with B[e], for every expert e. Where its rows are is read on the device.
typedef struct GroupedFp8GemmParams {
  Fp8GemmParams gemm;    // m: rows of A and D
  const int32_t* rows;   // ragged: [experts + 1], where segments start and the last ends; masked: [experts], rows used
  uint32_t* error_words;  // [FAULT_KINDS]
  uint32_t experts;      // at most MAX_EXPERTS
  uint32_t ragged;       // 1: segments follow each other; 0: masked, segment e starts at e * max_rows
  uint32_t max_rows;     // masked: rows of a segment
} GroupedFp8GemmParams;
