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
  TensorMap map_b;      // E4M3 [n, k], box [block_n / cluster, 128], 128-byte swizzle
  TensorMap map_sfa;    // FP32 [k/128, m], box [1, block_m]
  TensorMap map_d;      // BF16 or FP32 [m, n], box [64, up to 128 bytes], swizzled by the box width
  const float* sfb;     // FP32 [ceil(n/128), sfb_pitch], one scale per 128x128 block of B
  const void* d;        // [m, d_pitch], read only when `accumulate`
  uint64_t d_pitch;     // elements
  uint32_t sfb_pitch;   // elements
  uint32_t m, n;
  uint32_t k_blocks;    // k / 128; 0 writes zeros (or leaves D when accumulating)
  uint32_t accumulate;  // 0 or 1: out = round(sum + D)
} Fp8GemmParams;

// How a quantiser chooses a scale from amax / 448.
typedef enum ScaleFormat {
  SCALE_FP32 = 0,          // as it is
  SCALE_POWER_OF_TWO = 1,  // rounded up to the next power of two
} ScaleFormat;

// What a kernel can find wrong with data that the host cannot see; bits of the device's error word.
typedef enum DeviceFault {
  FAULT_NONFINITE_INPUT = 1,  // a quantiser met Inf or NaN
} DeviceFault;

// x [m, k] -> q [m, k] with one scale per 1x128 (activations).
typedef struct Quantize1x128Params {
  const uint16_t* x;      // BF16 [m, x_pitch]
  uint8_t* q;             // E4M3 [m, q_pitch]
  float* sf;              // FP32, element (row, g) at row * sf_row_stride + g * sf_group_stride
  uint32_t* error_word;   // bits of DeviceFault
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
  uint32_t* error_word;   // bits of DeviceFault
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

// A test kernel of cuda/probes; each says there what the fields mean to it.
typedef struct ProbeParams {
  TensorMap map_load[2];
  TensorMap map_store;
  const uint32_t* input;
  uint32_t* output;
  uint32_t arguments[8];
} ProbeParams;
