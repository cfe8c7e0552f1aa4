// The parameter structs of this family's launches, in plain C: one truth for the kernels (C++) and for the host (Rust,
// through bindgen: `cargo xtask bindings`). Shapes stand in brackets, slowest dimension first.
#pragma once
#include <stdint.h>

#include "hopper/tensor_map.h"
#include "indices.h"

enum {
  MLA_LATENT = 512,     // of a row of the cache: the compressed keys and values
  MLA_ROPE = 64,        // of a row of the cache: the rest of the key, which carries the position
  MLA_BLOCK_KEYS = 64,  // keys of one step of the attention
};

// Where the lse of a head of a token lies, in elements. Tokens go by groups: those of a sequence, where of a head they follow
// each other, or single ones.
typedef struct LseStrides {
  uint64_t group, token, head;
  uint32_t group_tokens;  // at least 1
} LseStrides;

// Which splits of which sequences there are, found on the device: a decode step needs no length on the host.
typedef struct MlaPlanTables {
  uint32_t* queries;        // [batch, 2]: first of the query tokens of all sequences, how many, within what there are
  uint32_t* lengths;        // [batch], clamped to what the pages hold
  uint32_t* split_offsets;  // [batch + 1], splits of all sequences before; a sequence has one at least
  uint32_t* items;          // [splits, 2]: sequence, split of it; longest first
} MlaPlanTables;

typedef struct MlaScheduleParams {
  Indices lengths;         // [batch], keys in the cache
  Indices q_offsets;       // [batch + 1], the first query token of every sequence, and the end; words null: q_tokens of each
  MlaPlanTables tables;
  uint32_t* error_words;  // [FAULT_KINDS]
  uint32_t batch;
  uint32_t capacity;       // keys that the pages of a sequence hold
  uint32_t split_keys;     // a multiple of MLA_BLOCK_KEYS
  uint32_t q_tokens;       // of a sequence, at most
  uint32_t tokens;         // of all sequences, at most
  uint64_t total_keys;     // most keys of all sequences: there is room for the splits of so many
} MlaScheduleParams;

// out = softmax(scale * q . k^T) . v for every sequence, v the latent part of k; splits leave partial results.
typedef struct MlaDecodeParams {
  TensorMap map_q;            // BF16 [tokens * heads, 576], box [64, 64], 128-byte swizzle; keys without a position: 512
  TensorMap map_kv;           // BF16 [pages, page_size, 576], FP8 cache: bytes [.., 656]; box [1, 64 / cluster, 128 bytes]
                              // Keys without a position: 512, bytes 528. Of rows that are codes alone there is none
  const uint8_t* kv;          // FP8 cache: rows as `kv_row.h` has them
  const float* kv_scale;      // FP8 with a per-tensor scale: FP32 [1]
  Indices page_table;         // [batch, pages of a sequence]; words null: sequence b is page b
  MlaPlanTables tables;
  uint16_t* out;              // BF16 [tokens * heads, out_pitch]
  float* lse;                 // FP32 [tokens, heads] by its strides, natural logarithm
  LseStrides lse_strides;
  float* part_out;            // FP32 [splits, rows, 512], sums that are not divided yet
  float* part_state;          // FP32 [splits, rows, 2]: m in units of log2, l
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t kv_pitch;          // FP8 cache: bytes from row to row,
  uint64_t page_stride;       // and from page to page
  uint64_t out_pitch;         // elements
  uint32_t batch;
  uint32_t rows;              // heads of query tokens of a sequence, at most
  uint32_t row_tiles;         // of 64 rows, even in a cluster
  uint32_t heads;
  uint32_t rope;              // of a key, and of a query, beside the latent: MLA_ROPE, or 0
  uint32_t pages, page_size;
  uint32_t box_keys;          // a power of two that divides page_size, at most a CTA's share of 64: no box straddles pages
  uint32_t split_blocks;      // split_keys / MLA_BLOCK_KEYS
  uint32_t causal;            // 0 or 1: query token t of n does not see the last n - 1 - t keys
  float scale_log2;           // softmax scale * log2(e)
  float empty_lse;            // of a row that sees no key
} MlaDecodeParams;

// out, lse of the sequences with several splits, from their parts in ascending order.
typedef struct MlaCombineParams {
  const float* part_out;           // FP32 [splits, rows, 512]
  const float* part_state;         // FP32 [splits, rows, 2]
  const uint32_t* queries;         // [batch, 2]
  const uint32_t* split_offsets;   // [batch + 1]
  uint16_t* out;                   // BF16 [tokens * heads, out_pitch]
  float* lse;                      // FP32 [tokens, heads] by its strides
  LseStrides lse_strides;
  uint64_t out_pitch;
  uint32_t batch, rows, heads;     // rows: of a sequence, at most
  float empty_lse;
} MlaCombineParams;

// out = softmax(scale * q . k^T) . v for every sequence and head; the rows of sequences follow each other.
typedef struct MlaPrefillParams {
  TensorMap map_q;       // BF16 [tokens, heads, nope + 64], box [128, 1, 64], 128-byte swizzle
  TensorMap map_k_nope;  // BF16 [keys, heads, nope], box [keys of a block, 1, 64], 128-byte swizzle
  TensorMap map_k_pe;    // BF16 [keys, k_pe_heads, 64], the same box
  TensorMap map_v;       // BF16 [keys, heads, value], the same box
  Indices q_offsets;     // [batch + 1], the first token of every sequence, and where the last one ends
  Indices k_offsets;     // [batch + 1], the same of keys
  uint16_t* out;         // BF16 [tokens, heads, value] by its strides
  float* lse;            // FP32 [tokens, heads] by its strides, natural logarithm
  LseStrides lse_strides;
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t out_token_stride, out_head_stride;  // elements
  uint32_t batch;
  uint32_t tokens, keys;  // of all sequences: there are so many rows
  uint32_t heads;
  uint32_t k_pe_heads;   // 1: all heads share the position
  uint32_t tiles;        // of 128 tokens, that the sequences have at most
  uint32_t causal;       // 0 or 1: token t of n does not see the last n - 1 - t keys of its sequence
  float scale_log2;      // softmax scale * log2(e)
  float empty_lse;       // of a token that sees no key
} MlaPrefillParams;

// D[t, h] = A[t, h] . B[h], B[h] being rows of W[h] or their transpose: head_gemm.cuh.
typedef struct HeadGemmParams {
  TensorMap map_a;  // BF16 [tokens, heads, k], box [64, 1, 64], 128-byte swizzle
  TensorMap map_w;  // BF16 [heads, rows, MLA_LATENT], box [1, 64, 64], 128-byte swizzle
  TensorMap map_d;  // BF16 [tokens, heads, n], box [64, 1, 64], 128-byte swizzle
  uint32_t tokens;
  uint32_t k, n;       // k: a multiple of 64
  uint32_t first_row;  // of B[h] in W[h]
} HeadGemmParams;

// Attention over a part of the keys.
typedef struct MergePart {
  const void* o;     // BF16 or FP32 [rows, o_pitch]
  const float* lse;  // FP32 [tokens, heads] by its strides, natural logarithm; -Inf: no key
  LseStrides lse_strides;
  uint64_t o_pitch;  // elements
} MergePart;

// out, out_lse = attention over the keys of both parts.
typedef struct MergeStatesParams {
  MergePart part[2];
  void* out;                   // BF16 or FP32, as o  [rows, out_pitch]
  float* out_lse;              // FP32 [tokens, heads] by its strides
  LseStrides out_lse_strides;
  uint64_t out_pitch;
  uint32_t rows, heads;        // rows: tokens * heads
  uint32_t columns;            // of o: a multiple of 8
  uint32_t o_is_f32;           // 0 or 1
  uint32_t infinity_is_empty;  // 0 or 1: +Inf says the same as -Inf
} MergeStatesParams;

// What a row of the KV cache holds; `kv_row.h` has the layout. Keys without a position have no 64 BF16, or E4M3.
typedef enum KvRowFormat {
  KV_BF16 = 0,  // 512 + 64 BF16
  KV_FP8 = 1,   // 512 E4M3, 4 FP32 scales, 64 BF16
  KV_FP8_PER_TENSOR = 2,  // 512 + 64 E4M3
} KvRowFormat;

// cache[slots[t]] = latent[t], k_pe[t], for every token t that has a slot.
typedef struct KvAppendParams {
  const uint16_t* latent;  // BF16 [tokens, latent_pitch]
  const uint16_t* k_pe;    // BF16 [tokens, k_pe_pitch], rotated; if rope is 0, none
  Indices slots;           // [tokens], rows of the cache; -1: none
  const float* cache_scale;  // FP32 [1], for KV_FP8_PER_TENSOR
  uint8_t* cache;          // [rows / page_size, page_size] rows, by their strides
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t latent_pitch, k_pe_pitch;
  uint64_t cache_pitch;    // bytes from row to row of a page,
  uint64_t page_stride;    // and from page to page
  uint32_t tokens, rows;
  uint32_t rope;           // elements of a rotated key: MLA_ROPE, or 0
  uint32_t page_size;      // rows of a page, at least 1
  uint32_t format;         // KvRowFormat
  uint32_t scale_format;   // ScaleFormat, for KV_FP8
} KvAppendParams;

// Which columns of a head make a pair.
typedef enum RopePairs {
  ROPE_NEIGHBOURS = 0,  // 2 i and 2 i + 1
  ROPE_HALVES = 1,      // i and columns / 2 + i
} RopePairs;

// out[t, h] = x[t, h], its pairs turned by the angles of positions[t].
typedef struct RopeParams {
  const uint16_t* x;         // BF16 [tokens, heads, columns] by its strides
  Indices positions;         // [tokens], rows of the table
  const float* table;        // FP32 [table_rows, table_pitch]: cos, sin of pair 0, cos, sin of pair 1, ...
  uint16_t* out;             // BF16 [tokens, heads, columns] by its strides
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_token_stride, x_head_stride, out_token_stride, out_head_stride, table_pitch;
  uint32_t tokens, heads;
  uint32_t table_rows;
  uint32_t columns;          // even; of halves, a multiple of 4
  uint32_t pairs;            // RopePairs
} RopeParams;
