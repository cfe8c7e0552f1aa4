// The parameter structs of this family's launches, in plain C: one truth for the kernels (C++) and for the host (Rust,
// through bindgen: `cargo xtask bindings`). Shapes stand in brackets, slowest dimension first.
#pragma once
#include <stdint.h>

#include "gemm/params.h"
#include "indices.h"
#include "quant/params.h"
#include "router/params.h"

// Top-k expert ids -> rows sorted by (expert, token, k); a route is token * top_k + k.
typedef struct ExpertMapParams {
  Indices ids;             // [tokens, top_k], -1: dropped
  Indices local_ids;       // [global_experts], the expert that an id means, -1: none here; words null: itself
  int32_t* row_route;      // [rows], -1: no route
  int32_t* route_row;      // [tokens, top_k], -1: dropped
  int32_t* offsets;        // [experts + 1], where segments start and the last ends
  int32_t* counts;         // [experts], routes that have a row
  int32_t* demand;         // [experts + 1], routes to the expert; last: ids that are none
  uint32_t* block_counts;  // scratch [experts + 1, blocks]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t route_row_pitch;
  uint32_t routes, top_k;  // routes: tokens * top_k
  uint32_t rows;
  uint32_t experts;        // at most MAX_EXPERTS
  uint32_t blocks;         // of consecutive routes
  uint32_t alignment;      // contiguous: segments span a multiple of it; 0: masked, every segment spans max_rows
  uint32_t max_rows;       // of an expert; routes beyond are dropped
  uint32_t global_experts; // what ids may be, if they are not the experts themselves
} ExpertMapParams;

// logits -> the experts of every token and their weights -> rows sorted by expert.
typedef struct GateMapParams {
  GateSelectParams gate;
  ExpertMapParams map;  // of gate.ids: its own are not read; a block per CTA of the cluster
} GateMapParams;

// The rows that experts use, as routing left them on the device.
typedef struct UsedRows {
  const int32_t* rows;  // ragged: [experts + 1], of which the last is the number of rows in use; masked: [experts]
  uint32_t total;       // rows there are
  uint32_t experts;
  uint32_t max_rows;    // masked: expert e uses the first rows[e] rows from e * max_rows on; 0: ragged
} UsedRows;

// q, sf = quantised x[row_route[row] / top_k] for every row in use; zeros where that is -1.
typedef struct GatherQuantizeParams {
  const uint16_t* x;         // BF16 [tokens, x_pitch]
  const int32_t* row_route;  // [rows]
  UsedRows used;
  uint8_t* q;                // E4M3 [rows, q_pitch]
  float* sf;                 // FP32 [ceil(k/128), sf_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch, sf_pitch;
  uint32_t routes, top_k;
  uint32_t k;                // hidden: a multiple of 8
  QuantizeRule rule;
} GatherQuantizeParams;

// q, sf = quantised silu(gate) * up, for every row in use; gate and up are the halves of a row, in either order.
typedef struct SwigluQuantizeParams {
  const uint16_t* gate;      // BF16 [rows, x_pitch], k columns
  const uint16_t* up;        // the same
  const float* weights;      // FP32 [tokens, top_k], or null: not multiplied
  const int32_t* row_route;  // [rows], read when there are weights
  UsedRows used;
  uint8_t* q;                // E4M3 [rows, q_pitch]
  float* sf;                 // FP32 [ceil(k/128), sf_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, weights_pitch, q_pitch, sf_pitch;
  float clamp;               // gate <= clamp, |up| <= clamp; Inf: not clamped
  uint32_t routes, top_k;    // routes: tokens * top_k
  uint32_t k;                // intermediate: a multiple of 8
  QuantizeRule rule;
} SwigluQuantizeParams;

// q, sf = quantised silu(gate) * up of the GEMM of each expert's rows; gate and up are the halves of a row of its D.
typedef struct GateUpSwigluParams {
  GroupedFp8GemmParams grouped;  // B [experts, 2, n, k], boxes of 64 rows; no D; n: intermediate, a multiple of 16
  uint8_t* q;                    // E4M3 [m, q_pitch], 16-byte aligned
  float* sf;                     // FP32 [ceil(n/128), sf_pitch]
  uint64_t q_pitch, sf_pitch;
  float clamp;                   // gate <= clamp, |up| <= clamp; Inf: not clamped
  QuantizeRule rule;
  uint32_t up_first;             // 0 or 1: which half is gate
} GateUpSwigluParams;

// out[t] = sum over k of weights[t, k] * y[route_row[t, k]] (+ shared[t]) (+ residual[t]), rounded once.
typedef struct CombineParams {
  const uint16_t* y;         // BF16 [rows, y_pitch]
  const int32_t* route_row;  // [tokens, top_k], -1: nothing
  const float* weights;      // FP32 [tokens, top_k], or null: all 1
  const uint16_t* shared;    // BF16 [tokens, shared_pitch], or null
  const uint16_t* residual;  // BF16 [tokens, residual_pitch], or null
  uint16_t* out;             // BF16 [tokens, out_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t y_pitch, route_row_pitch, weights_pitch, shared_pitch, residual_pitch, out_pitch;
  uint32_t tokens, top_k, rows;
  uint32_t pieces;           // hidden / 8
} CombineParams;
