// The parameter struct of every launch, in plain C: one truth for the kernels (C++), for the host (Rust, through
// bindgen: `cargo xtask bindings`) and for the emulator. Shapes stand in brackets, slowest dimension first.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
#define DK_ALIGN128 alignas(128)
#else
#define DK_ALIGN128 _Alignas(128)
#endif

// A TMA descriptor: `CUtensorMap` on a GPU, the emulator's own encoding otherwise. CUDA 13 asks for 128-byte alignment.
typedef struct TensorMap {
  DK_ALIGN128 uint8_t opaque[128];
} TensorMap;

// D = sum over K blocks g of sfa[:, g] * sfb[:, g] * (A_g . B_g^T), optionally added to what D holds.
typedef struct Fp8GemmParams {
  TensorMap map_a;      // E4M3 [m, k], box [block_m, 128], 128-byte swizzle
  TensorMap map_b;      // E4M3 [experts, n, k] (dense: one), box [1, block_n / cluster, 128], 128-byte swizzle
  TensorMap map_sfa;    // FP32 [k/128, m], box [1, block_m]
  TensorMap map_d;      // BF16 or FP32 [m, n], box [64, up to 128 bytes], swizzled by the box width
  const float* sfb;     // FP32 [experts, ceil(n/128), sfb_pitch], one scale per 128x128 block of B
  void* d;              // [m, d_pitch]; read when `accumulate`, written where a map cannot clip
  uint64_t d_pitch;     // elements
  uint64_t sfb_expert_stride;  // elements from one expert's scales to the next
  uint32_t sfb_pitch;   // elements
  uint32_t m, n;
  uint32_t k_blocks;    // k / 128; 0 writes zeros (or leaves D when accumulating)
  uint32_t accumulate;  // 0 or 1: out = round(sum + D)
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

enum { MAX_EXPERTS = 512 };

// How a quantiser chooses a scale from amax / 448.
typedef enum ScaleFormat {
  SCALE_FP32 = 0,          // as it is
  SCALE_POWER_OF_TWO = 1,  // rounded up to the next power of two
} ScaleFormat;

// What a kernel can find wrong with data that the host cannot see: one of the device's error words each, so that a report
// is a store that no other can undo.
typedef enum DeviceFault {
  FAULT_NONFINITE_INPUT,  // a quantiser met Inf or NaN
  FAULT_SEGMENT,          // the rows of an expert are not within the rows there are, or not in order
  FAULT_EXPERT_ID,        // an expert id is neither -1 nor one of the experts
  FAULT_CACHE_SLOT,       // a slot is neither -1 nor a row of the cache
  FAULT_PAGE_ID,          // a page table names a page that the cache does not have
  FAULT_SEQUENCE_LENGTH,  // a sequence is longer than its pages, or its length is negative
  FAULT_POSITION,         // a position is not in the table of angles
  FAULT_KINDS,
} DeviceFault;

// x [m, k] -> q [m, k] with one scale per 1x128 (activations).
typedef struct Quantize1x128Params {
  const uint16_t* x;      // BF16 [m, x_pitch]
  uint8_t* q;             // E4M3 [m, q_pitch]
  float* sf;              // FP32, element (row, g) at row * sf_row_stride + g * sf_group_stride
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch;
  uint64_t sf_row_stride, sf_group_stride;
  uint32_t m;
  uint32_t k_blocks;      // k / 128
  uint32_t scale_format;  // ScaleFormat
} Quantize1x128Params;

// x [n, k] -> q [n, k] with one scale per 128x128 (weights); ragged edges count as zero.
typedef struct Quantize128x128Params {
  const uint16_t* x;      // BF16 [n, x_pitch]
  uint8_t* q;             // E4M3 [n, q_pitch]
  float* sf;              // FP32 [ceil(n/128), sf_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch, sf_pitch;
  uint32_t n;
  uint32_t k_blocks;      // k / 128
  uint32_t scale_format;  // ScaleFormat
} Quantize128x128Params;

// sf [m, k/128] row-major -> out [k/128, m]: the layout the GEMM's TMA wants.
typedef struct TransposeScalesParams {
  const float* sf;      // FP32 [m, sf_pitch]
  float* out;           // FP32 [k_blocks, out_pitch]
  uint64_t sf_pitch, out_pitch;
  uint32_t m, k_blocks;
} TransposeScalesParams;

// Top-k expert ids -> rows sorted by (expert, token, slot of the token); a slot is token * top_k + k.
typedef struct ExpertMapParams {
  const int32_t* ids;      // [slots], -1: dropped
  int32_t* row_slot;       // [rows], -1: no slot
  int32_t* slot_row;       // [slots], -1: dropped
  int32_t* offsets;        // [experts + 1], where segments start and the last ends
  int32_t* counts;         // [experts], slots that have a row
  int32_t* demand;         // [experts + 1], slots that asked for the expert; last: ids that are none
  uint32_t* block_counts;  // workspace [experts + 1, blocks]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint32_t slots, rows;
  uint32_t experts;        // at most MAX_EXPERTS
  uint32_t blocks;         // of 256 slots
  uint32_t alignment;      // contiguous: segments span a multiple of it; 0: masked, every segment spans max_rows
  uint32_t max_rows;       // of an expert; slots beyond are dropped
} ExpertMapParams;

// The rows that experts use, as routing left them on the device.
typedef struct UsedRows {
  const int32_t* rows;  // ragged: [experts + 1], of which the last is the number of rows in use; masked: [experts]
  uint32_t total;       // rows there are
  uint32_t experts;
  uint32_t max_rows;    // masked: expert e uses the first rows[e] rows from e * max_rows on; 0: ragged
} UsedRows;

// q, sf = quantised x[row_slot[row] / top_k] for every row in use; zeros where that is -1.
typedef struct GatherQuantizeParams {
  const uint16_t* x;        // BF16 [tokens, x_pitch]
  const int32_t* row_slot;  // [rows]
  UsedRows used;
  uint8_t* q;               // E4M3 [rows, q_pitch]
  float* sf;                // FP32 [k_blocks, sf_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch, sf_pitch;
  uint32_t slots, top_k;
  uint32_t k_blocks;        // hidden / 128
  uint32_t scale_format;    // ScaleFormat
} GatherQuantizeParams;

// q, sf = quantised silu(gate) * up, for every row in use; gate is the left half of a row of x, up the right one.
typedef struct SwigluQuantizeParams {
  const uint16_t* x;        // BF16 [rows, x_pitch], gate and up of 128 * k_blocks columns each
  const float* weights;     // FP32 [slots], or null: not multiplied
  const int32_t* row_slot;  // [rows], read when there are weights
  UsedRows used;
  uint8_t* q;               // E4M3 [rows, q_pitch]
  float* sf;                // FP32 [k_blocks, sf_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch, sf_pitch;
  float clamp;              // gate <= clamp, |up| <= clamp; Inf: not clamped
  uint32_t slots;
  uint32_t k_blocks;        // intermediate / 128
  uint32_t scale_format;    // ScaleFormat
} SwigluQuantizeParams;

// out[t] = sum over k of weights[t, k] * y[slot_row[t, k]] (+ shared[t]) (+ residual[t]), rounded once.
typedef struct CombineParams {
  const uint16_t* y;         // BF16 [rows, y_pitch]
  const int32_t* slot_row;   // [tokens, top_k], -1: nothing
  const float* weights;      // FP32 [tokens, top_k], or null: all 1
  const uint16_t* shared;    // BF16 [tokens, shared_pitch], or null
  const uint16_t* residual;  // BF16 [tokens, residual_pitch], or null
  uint16_t* out;             // BF16 [tokens, out_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t y_pitch, shared_pitch, residual_pitch, out_pitch;
  uint32_t tokens, top_k, rows;
  uint32_t pieces;           // hidden / 8
} CombineParams;

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
  GATE_CHUNK = 1024,    // elements of K in one chain of FMAs
  MAX_GATE_GROUPS = 32, // groups of experts: one per lane
  MAX_GATE_SLOTS = 32,  // experts of one token, shared ones included: one per lane
};

// How logits become scores.
typedef enum GateScoring {
  GATE_SIGMOID = 0,
  GATE_SOFTMAX = 1,
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
  const int32_t* fixed_ids;   // [t, fixed_pitch], the choice of another run, kept; null: choose
  int32_t* ids;               // [t, ids_pitch]
  float* weights;             // FP32 [t, weights_pitch]
  float* scores;              // FP32 [t, scores_pitch] of all experts, without bias; null: not wanted
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t chunk_stride;      // elements from one chunk of logits to the next
  uint64_t logits_pitch, fixed_pitch, ids_pitch, weights_pitch, scores_pitch;
  uint32_t t, experts, chunks;
  uint32_t groups, kept_groups;  // experts % groups == 0
  uint32_t top_k, shared;         // slots of routed and of shared experts
  uint32_t scoring;              // GateScoring
  uint32_t group_score;          // GateGroupScore
  uint32_t normalize;            // 0 or 1: divide the weights by their sum
  float route_scale;
} GateSelectParams;

// counts[e] += how often ids name expert e.
typedef struct ExpertLoadParams {
  const int32_t* ids;    // [t, ids_pitch], of which `slots` columns count; -1: none
  uint32_t* counts;      // [experts]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t ids_pitch;
  uint32_t t, slots, experts;
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

enum {
  MLA_NOPE = 128,         // of a head's query: what is not rotated
  MLA_VALUE = 128,        // of a head's output
  MLA_LATENT = 512,       // of a cached token: the compressed keys and values
  MLA_ROPE = 64,          // of a cached token: the rest of its key, which carries the position
  MLA_BLOCK_TOKENS = 64,  // tokens of one step of the attention
};

// Which splits of which sequences there are, found on the device: a decode step needs no length on the host.
typedef struct MlaPlanTables {
  uint32_t* lengths;        // [batch], clamped to what the pages hold
  uint32_t* split_offsets;  // [batch + 1], splits of all sequences before; a sequence has one at least
  uint32_t* items;          // [splits, 2]: sequence, split of it; longest first
} MlaPlanTables;

typedef struct MlaScheduleParams {
  const int32_t* lengths;  // [batch], tokens in the cache
  MlaPlanTables tables;
  uint32_t* error_words;  // [FAULT_KINDS]
  uint32_t batch;
  uint32_t capacity;       // tokens that the pages of a sequence hold
  uint32_t split_tokens;   // a multiple of MLA_BLOCK_TOKENS
} MlaScheduleParams;

// out = softmax(scale * q . k^T) . v for every sequence, v the latent part of k; splits leave partial results.
typedef struct MlaDecodeParams {
  TensorMap map_q;            // BF16 [batch, rows, 576], box [1, 64, 64], 128-byte swizzle
  TensorMap map_kv;           // BF16 [pages, page_size, 576], FP8 cache: bytes [.., 656]; box [1, 64 / cluster, 128 bytes]
  TensorMap map_out;          // BF16 [batch, rows, 512], box [1, 64, 64], 128-byte swizzle
  const uint8_t* kv;          // FP8 cache: rows of 512 E4M3, 4 FP32 scales, 64 BF16
  const int32_t* page_table;  // [batch, table_pitch], or null: sequence b is page b
  MlaPlanTables tables;
  float* lse;                 // FP32 [batch, rows], natural logarithm
  float* part_out;            // FP32 [splits, rows, 512], sums that are not divided yet
  float* part_state;          // FP32 [splits, rows, 2]: m in units of log2, l
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t kv_pitch;          // FP8 cache: bytes from row to row
  uint64_t table_pitch;
  uint32_t batch;
  uint32_t rows;              // q_tokens * heads
  uint32_t row_tiles;         // of 64 rows, even in a cluster
  uint32_t q_tokens, heads;
  uint32_t pages, page_size;
  uint32_t split_blocks;      // split_tokens / MLA_BLOCK_TOKENS
  uint32_t causal;            // 0 or 1: query token t does not see the last q_tokens - 1 - t keys
  float scale_log2;           // softmax scale * log2(e)
  float empty_lse;            // of a row that sees no key
} MlaDecodeParams;

// out, lse of the sequences with several splits, from their parts in ascending order.
typedef struct MlaCombineParams {
  const float* part_out;           // FP32 [splits, rows, 512]
  const float* part_state;         // FP32 [splits, rows, 2]
  const uint32_t* split_offsets;   // [batch + 1]
  uint16_t* out;                   // BF16 [batch * rows, out_pitch]
  float* lse;                      // FP32 [batch, rows]
  uint64_t out_pitch;
  uint32_t batch, rows;
  float empty_lse;
} MlaCombineParams;

// D[t, h] = A[t, h] . B[h], B[h] being rows of W[h] or their transpose: cuda/kernels/head_gemm.cuh.
typedef struct HeadGemmParams {
  TensorMap map_a;  // BF16 [tokens, heads, k], box [64, 1, 64], 128-byte swizzle
  TensorMap map_w;  // BF16 [heads, MLA_NOPE + MLA_VALUE, MLA_LATENT], box [1, 64, 64], 128-byte swizzle
  TensorMap map_d;  // BF16 [tokens, heads, n], box [64, 1, 64], 128-byte swizzle
  uint32_t tokens;
} HeadGemmParams;

// Attention over a part of the keys.
typedef struct MergePart {
  const void* o;     // BF16 or FP32 [rows, o_pitch], MLA_LATENT columns
  const float* lse;  // FP32 [rows], natural logarithm; -Inf: no key
  uint64_t o_pitch;  // elements
} MergePart;

// out, out_lse = attention over the keys of both parts.
typedef struct MergeStatesParams {
  MergePart part[2];
  void* out;                   // BF16 or FP32, as o  [rows, out_pitch]
  float* out_lse;              // FP32 [rows]
  uint64_t out_pitch;
  uint32_t rows;
  uint32_t o_is_f32;           // 0 or 1
  uint32_t infinity_is_empty;  // 0 or 1: +Inf says the same as -Inf
} MergeStatesParams;

// What a row of the KV cache holds; `cuda/tile/kv_row.h` has the layout.
typedef enum KvRowFormat {
  KV_BF16 = 0,  // 512 + 64 BF16
  KV_FP8 = 1,   // 512 E4M3, 4 FP32 scales, 64 BF16
} KvRowFormat;

// cache[slots[t]] = latent[t], k_pe[t], for every token t that has a slot.
typedef struct KvAppendParams {
  const uint16_t* latent;  // BF16 [tokens, latent_pitch]
  const uint16_t* k_pe;    // BF16 [tokens, k_pe_pitch], rotated
  const int32_t* slots;    // [tokens], rows of the cache; -1: none
  uint8_t* cache;          // [rows, cache_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t latent_pitch, k_pe_pitch;
  uint64_t cache_pitch;    // bytes
  uint32_t tokens, rows;
  uint32_t format;         // KvRowFormat
  uint32_t scale_format;   // ScaleFormat, for KV_FP8
} KvAppendParams;

// out[t, h] = x[t, h], its 32 pairs of neighbours turned by the angles of positions[t].
typedef struct RopeParams {
  const uint16_t* x;         // BF16 [tokens, heads, 64] by its strides
  const int32_t* positions;  // [tokens], rows of the table
  const float* table;        // FP32 [table_rows, table_pitch]: cos, sin of pair 0, cos, sin of pair 1, ...
  uint16_t* out;             // BF16 [tokens, heads, 64] by its strides
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_token_stride, x_head_stride, out_token_stride, out_head_stride, table_pitch;
  uint32_t tokens, heads;
  uint32_t table_rows;
} RopeParams;

// A test kernel of cuda/probes; each says there what the fields mean to it.
typedef struct ProbeParams {
  TensorMap map_load[2];
  TensorMap map_store;
  const uint32_t* input;
  uint32_t* output;
  uint32_t arguments[8];
} ProbeParams;
