// Latent vectors and rotated keys of new tokens into their rows of the KV cache, BF16 or quantised.
//
//   scale = max(amax / 448, 1e-4) of 128 values, rounded up to a power of two or not; or it is given, for the whole cache
//   code  = e4m3(x / scale)
//
//   latent BF16 [tokens, 512] · k_pe BF16 [tokens, 64] or none · slots indices [tokens]
//   cache [rows, 1152, 656 or 576 bytes]
//
// Schedule: a warp per token. Quantising, a lane owns 16 neighbouring values, eight lanes the block of a scale; every
// access moves 16 bytes, but for the scales.
#pragma once
#include <bit>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/pieces.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/cta/warp_reduce.cuh"
#include "indices.cuh"
#include "mla/kv_row.h"
#include "mla/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "quant/quantize_row.cuh"
#include "quant/scale.h"

namespace mla {

constexpr uint32_t kWarpLanes = 32;
constexpr uint32_t kAccessBytes = 16;

// `Bytes` from gFrom to gTo, both 16-byte aligned, by the whole warp.
template <uint32_t Bytes>
PTX_DEVICE void copy_by_warp(uint8_t* gTo, const uint16_t* gFrom) {
  constexpr uint32_t kPieces = Bytes / kAccessBytes;
#pragma unroll
  for (uint32_t piece = ptx::thread_idx() % kWarpLanes; piece < kPieces; piece += kWarpLanes) {
    ptx::stg_v4_u32(gTo + piece * kAccessBytes, ptx::ldg_v4_u32(gFrom + piece * kPieceElements));
  }
}

// What a lane quantises: 16 neighbouring values.
struct Values {
  Piece left, right;
};

PTX_DEVICE Values load_values(const uint16_t* gFrom) {
  return {load_bf16_piece(gFrom), load_bf16_piece(gFrom + kPieceElements)};
}

// E4M3 [8] of x / scale. A power of two is divided by exactly with its reciprocal.
PTX_DEVICE uint64_t encode_piece(const Piece& piece, float scale, uint32_t scale_format) {
  float x[kPieceElements];
  const float reciprocal = 1.0f / scale;
#pragma unroll
  for (uint32_t i = 0; i < kPieceElements; ++i) {
    x[i] = scale_format == SCALE_POWER_OF_TWO ? piece.x[i] * reciprocal : piece.x[i] / scale;
  }
  return static_cast<uint64_t>(quant::four_codes(x + 4)) << 32 | quant::four_codes(x);
}

// gTo <- E4M3 [16]; what is not finite is reported.
PTX_DEVICE void store_codes(const KvAppendParams& params, uint8_t* gTo, const Values& x, float scale,
                            uint32_t scale_format) {
  const uint64_t q0 = encode_piece(x.left, scale, scale_format);
  const uint64_t q1 = encode_piece(x.right, scale, scale_format);
  ptx::stg_v4_u32(gTo, {static_cast<uint32_t>(q0), static_cast<uint32_t>(q0 >> 32), static_cast<uint32_t>(q1),
                        static_cast<uint32_t>(q1 >> 32)});
  quant::report_nonfinite(params.error_words, x.left.x);
  quant::report_nonfinite(params.error_words, x.right.x);
}

// gRow <- E4M3 [512] and FP32 [4] of gLatent BF16 [512].
PTX_DEVICE void quantize_latent(const KvAppendParams& params, const uint16_t* gLatent, uint8_t* gRow) {
  constexpr uint32_t kLanesPerBlock = kKvScaleBlock / kAccessBytes;
  const uint32_t lane = ptx::thread_idx() % kWarpLanes;
  const uint32_t first = lane * kAccessBytes;
  const Values x = load_values(gLatent + first);
  const float lane_amax = quant::max_of(quant::finite_amax(x.left.x), quant::finite_amax(x.right.x));
  const float amax = warp_reduce<kLanesPerBlock>(lane_amax, quant::max_of);
  const float scale = quant::cache_scale(amax, params.scale_format);

  store_codes(params, gRow + first, x, scale, params.scale_format);
  if (lane % kLanesPerBlock == 0) {
    const uint32_t block = lane / kLanesPerBlock;
    ptx::stg_u32(gRow + kKvFp8Scales + block * sizeof(float), std::bit_cast<uint32_t>(scale));
  }
}

// gRow <- E4M3 [512] and behind them, if there is a key, E4M3 [64], under the scale of the cache. 0, Inf and NaN are no scales:
// they are reported.
PTX_DEVICE void quantize_per_tensor(const KvAppendParams& params, const uint16_t* gLatent, const uint16_t* gKey,
                                    uint8_t* gRow) {
  const uint32_t lane = ptx::thread_idx() % kWarpLanes;
  const float scale[1] = {ptx::ldg_f32(params.cache_scale)};
#pragma unroll 1
  for (uint32_t i = lane * kAccessBytes; i < kKvLatent + params.rope; i += kWarpLanes * kAccessBytes) {
    const uint16_t* gFrom = i < kKvLatent ? gLatent + i : gKey + (i - kKvLatent);
    store_codes(params, gRow + i, load_values(gFrom), scale[0], SCALE_FP32);
  }
  quant::report_nonfinite(params.error_words, scale);
  if (scale[0] == 0.0f) report_fault(params.error_words, FAULT_NONFINITE_INPUT);
}

template <class Config>
PTX_DEVICE void kv_append_kernel(const KvAppendParams& params) {
  static_assert(Config::kThreads == Config::kTokens * kWarpLanes, "a warp per token");
  constexpr uint32_t kNoSlot = 0xffffffffu;  // -1
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint64_t token = static_cast<uint64_t>(ptx::cta_idx()) * Config::kTokens + thread / kWarpLanes;
  if (token >= params.tokens) return;
  const uint32_t given = static_cast<uint32_t>(load_index(params.slots, 0, token));
  const uint32_t slot = ptx::warp_uniform(given);  // shuffles follow a branch on it
  if (slot >= params.rows) {
    if (slot != kNoSlot) report_fault(params.error_words, FAULT_CACHE_SLOT);
    return;
  }

  uint8_t* gRow =
      params.cache + slot / params.page_size * params.page_stride + slot % params.page_size * params.cache_pitch;
  const uint16_t* gLatent = params.latent + token * params.latent_pitch;
  const uint16_t* gKey = params.k_pe + token * params.k_pe_pitch;
  if (params.format == KV_FP8) {
    quantize_latent(params, gLatent, gRow);
    if (params.rope != 0) copy_by_warp<kKvRope * sizeof(uint16_t)>(gRow + kKvFp8Rope, gKey);
  } else if (params.format == KV_FP8_PER_TENSOR) {
    quantize_per_tensor(params, gLatent, gKey, gRow);
  } else {
    copy_by_warp<kKvLatent * sizeof(uint16_t)>(gRow, gLatent);
    if (params.rope != 0) copy_by_warp<kKvRope * sizeof(uint16_t)>(gRow + kKvBf16Rope, gKey);
  }
}

}  // namespace mla
