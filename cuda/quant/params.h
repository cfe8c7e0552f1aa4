// The parameter structs of this family's launches, in plain C: one truth for the kernels (C++) and for the host (Rust,
// through bindgen: `cargo xtask bindings`). Shapes stand in brackets, slowest dimension first.
#pragma once
#include <stdint.h>

// How a quantiser chooses a scale from amax / 448.
typedef enum ScaleFormat {
  SCALE_FP32 = 0,          // as it is
  SCALE_POWER_OF_TWO = 1,  // rounded up to the next power of two
} ScaleFormat;

// What the codes of a block are computed from: the formulas that are in use round differently.
typedef enum CodeFormula {
  CODES_BY_RATIO = 0,       // x * (448 / amax)
  CODES_BY_RECIPROCAL = 1,  // x * (1 / scale)
  CODES_BY_QUOTIENT = 2,    // x / scale
  CODES_BY_INVERSE = 3,     // x * (448 / amax), and the scale is the reciprocal of that
} CodeFormula;

// Scale and codes of a block.
typedef struct QuantizeRule {
  uint32_t formula;       // CodeFormula
  uint32_t scale_format;  // ScaleFormat
  float amax_floor;       // blocks of less are quantised as if they had this
} QuantizeRule;

// x [m, k] -> q [m, k] with one scale per 1x128 (activations).
typedef struct Quantize1x128Params {
  const uint16_t* x;      // BF16 [m, x_pitch]
  uint8_t* q;             // E4M3 [m, q_pitch]
  float* sf;              // FP32, element (row, g) at row * sf_row_stride + g * sf_group_stride
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch;
  uint64_t sf_row_stride, sf_group_stride;
  uint32_t m;
  uint32_t k;             // a multiple of 8
  QuantizeRule rule;
} Quantize1x128Params;

// x [n, k] -> q [n, k] with one scale per 128x128 (weights); ragged edges count as zero.
typedef struct Quantize128x128Params {
  const uint16_t* x;      // BF16 [n, x_pitch]
  uint8_t* q;             // E4M3 [n, q_pitch]
  float* sf;              // FP32 [ceil(n/128), sf_pitch]
  uint32_t* error_words;  // [FAULT_KINDS]
  uint64_t x_pitch, q_pitch, sf_pitch;
  uint32_t n;
  uint32_t k;             // a multiple of 8
  QuantizeRule rule;
} Quantize128x128Params;

// q [m, k] and its scales -> x [m, k].
typedef struct DequantizeParams {
  const uint8_t* q;     // E4M3 [m, q_pitch]
  const float* sf;      // FP32, that of (row, g) at row / scale_rows * sf_row_stride + g * sf_group_stride
  uint16_t* x;          // BF16 [m, x_pitch]
  uint64_t q_pitch, x_pitch;
  uint64_t sf_row_stride, sf_group_stride;
  uint32_t m;
  uint32_t k;           // a multiple of 16
  uint32_t scale_rows;  // rows that share a scale: 1 or 128
} DequantizeParams;

// When RMSNorm rounds to BF16.
typedef enum NormRounding {
  NORM_ROUND_ONCE = 0,       // at the end: y = h * scale * weight in FP32
  NORM_ROUND_EACH_STEP = 1,  // h * scale, and that times the weight
} NormRounding;

// h = x + residual -> y = h / sqrt(mean(h^2) + eps) * weight, as BF16 or quantised with one scale per 1x128.
typedef struct RmsNormParams {
  const uint16_t* x;       // BF16 [rows, x_pitch]
  uint16_t* residual;      // BF16 [rows, residual_pitch], read, and overwritten with h; or null
  const uint16_t* weight;  // BF16 [hidden]
  uint16_t* out;           // BF16 [rows, out_pitch]; or null
  uint8_t* q;              // E4M3 [rows, q_pitch]; unless out is given
  float* sf;               // FP32 [hidden/128, sf_pitch]
  uint32_t* error_words;   // [FAULT_KINDS]
  uint64_t x_pitch, residual_pitch, out_pitch, q_pitch, sf_pitch;
  uint32_t hidden;         // a multiple of 8
  float eps;
  uint32_t rounding;       // NormRounding
  QuantizeRule rule;
} RmsNormParams;

// sf [m, k/128] row-major -> out [k/128, m]: the layout the GEMM's TMA wants.
typedef struct TransposeScalesParams {
  const float* sf;      // FP32 [m, sf_pitch]
  float* out;           // FP32 [k_blocks, out_pitch]
  uint64_t sf_pitch, out_pitch;
  uint32_t m, k_blocks;
} TransposeScalesParams;
