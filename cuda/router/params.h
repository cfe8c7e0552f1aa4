// The parameter structs of this family's launches, in plain C: one truth for the kernels (C++) and for the host (Rust,
// through bindgen: `cargo xtask bindings`). Shapes stand in brackets, slowest dimension first.
#pragma once
#include <stdint.h>

#include "indices.h"

// partial[c] = x . w^T over chunk c of K: the router's logits, before their chunks are summed.
typedef struct GateLogitsParams {
  const uint16_t* x;      // BF16 [t, x_pitch]
  const void* w;          // FP32 or BF16 [experts, w_pitch]
  float* partial;         // FP32 [ceil(k / GATE_CHUNK), t, experts]
  uint64_t x_pitch, w_pitch;
  uint32_t t, experts, k;  // k is a multiple of 32
  uint32_t w_is_bf16;      // 0 or 1
} GateLogitsParams;

enum {
  GATE_CHUNK = 1024,     // elements of K in one chain of FMAs
  MAX_GATE_GROUPS = 32,  // groups of experts: one per lane
  MAX_GATE_ROUTES = 32,  // experts of one token, shared ones included: one per lane
};

// How logits become scores.
typedef enum GateScoring {
  GATE_SIGMOID = 0,
  GATE_SOFTMAX = 1,
  GATE_SQRT_SOFTPLUS = 2,
} GateScoring;

// How the scores of a group of experts become the group's.
typedef enum GateGroupScore {
  GATE_GROUP_MAX = 0,
  GATE_GROUP_TOP2_SUM = 1,
} GateGroupScore;

// logits -> the experts of every token and their weights.
typedef struct GateSelectParams {
  const float* logits;        // FP32 [chunks, t, logits_pitch], summed over chunks in ascending order
  const float* bias;          // FP32 [experts], for the choice only; null: none
  const uint32_t* mask;       // [t], 0: the token is padding; null: none is
  Indices fixed_ids;          // [t, top_k], the choice of another run, kept; words null: choose
  int32_t* ids;               // [t, ids_pitch]
  float* weights;             // FP32 [t, weights_pitch]
  float* scores;              // FP32 [t, scores_pitch] of all experts, without bias; null: not wanted
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t chunk_stride;      // elements from one chunk of logits to the next
  uint64_t logits_pitch, ids_pitch, weights_pitch, scores_pitch;
  uint32_t t, experts, chunks;
  uint32_t groups, kept_groups;  // experts % groups == 0
  uint32_t top_k, shared;        // routes to routed and to shared experts
  uint32_t scoring;              // GateScoring
  uint32_t group_score;          // GateGroupScore
  uint32_t normalize;            // 0 or 1: divide the weights by their sum
  float route_scale;
} GateSelectParams;

// counts[e] += how often ids name expert e.
typedef struct ExpertLoadParams {
  Indices ids;           // [t, routes], -1: none
  uint32_t* counts;      // [experts]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint32_t t, routes, experts;
} ExpertLoadParams;

// bias += speed * sign(mean load - load), and how uneven the load is.
typedef struct BiasUpdateParams {
  const uint32_t* counts;  // [experts]
  float* bias;             // FP32 [experts]
  float* max_vio;          // FP32 [1]: (largest load - mean) / mean, 0 without any load
  uint32_t experts;
  float speed;
} BiasUpdateParams;

// loss[q] = alpha * sum over experts of f_i * P_i over the tokens of sequence q.
typedef struct SequenceBalanceLossParams {
  const float* scores;  // FP32 [sequences * length, scores_pitch]
  float* loss;          // FP32 [sequences]
  uint64_t scores_pitch;
  uint32_t length, experts, top_k;
  float alpha;
} SequenceBalanceLossParams;
