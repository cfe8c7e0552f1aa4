// Logits of the router, in FP32 whatever the model computes in: an error of one BF16 ulp sends one token in ten to
// another set of experts.
//
//   partial[c, t, e] = x[t, K of chunk c] . w[e, K of chunk c]      one chain of FMAs from +0, k ascending
//
//   x BF16 [t, k] · w FP32 or BF16 [experts, k] · partial FP32 [chunks, t, experts]
//
// Schedule: a CTA computes 32 tokens x 64 experts of one chunk, a thread 4 x 4 of them. K goes through shared memory 32
// elements at a time; the next step travels in registers while this one is multiplied. Few tokens still give chunks
// times expert tiles CTAs, and the order of the sum does not depend on the number of tokens.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/pieces.cuh"
#include "hopper/tile/order.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "router/params.h"

namespace router {

constexpr uint32_t kGateBlockTokens = 32;
constexpr uint32_t kGateBlockExperts = 64;
constexpr uint32_t kGateBlockK = 32;
// Floats from row to row in shared memory: with 4 more than a step, 16-byte reads of eight rows meet every bank once.
constexpr uint32_t kGateRowPitch = kGateBlockK + 4;

constexpr uint32_t gate_logits_threads = 128;
constexpr uint32_t gate_logits_smem_bytes = (kGateBlockTokens + kGateBlockExperts) * kGateRowPitch * sizeof(float);

// Threads along the experts of a tile; the others of a warp share their tokens, and read them by broadcast.
constexpr uint32_t kGateExpertThreads = 16;
constexpr uint32_t kGateTokenThreads = gate_logits_threads / kGateExpertThreads;
constexpr uint32_t kGateTokensPerThread = kGateBlockTokens / kGateTokenThreads;
constexpr uint32_t kGateExpertsPerThread = kGateBlockExperts / kGateExpertThreads;

constexpr uint32_t kGatePiecesPerRow = kGateBlockK / kPieceElements;
constexpr uint32_t kGateWPieces = kGateBlockExperts * kGatePiecesPerRow / gate_logits_threads;
static_assert(kGateBlockTokens * kGatePiecesPerRow == gate_logits_threads, "a thread loads one piece of x");

struct GateStep {
  Piece x;
  Piece w[kGateWPieces];
};

struct GateTile {
  uint32_t t0, expert0, chunk;
};

PTX_DEVICE GateTile gate_tile(const GateLogitsParams& params) {
  const uint32_t expert_tiles = ceil_div(params.experts, kGateBlockExperts);
  const uint32_t chunks = ceil_div(params.k, GATE_CHUNK);
  const uint32_t cta = ptx::cta_idx();
  const uint32_t t0 = cta / chunks / expert_tiles * kGateBlockTokens;
  return {t0, cta / chunks % expert_tiles * kGateBlockExperts, cta % chunks};
}

// Rows past the end are zeros: their sums are not stored.
PTX_DEVICE GateStep load_step(const GateLogitsParams& params, const GateTile& tile, uint32_t k0) {
  const uint32_t row = ptx::thread_idx() / kGatePiecesPerRow;
  const uint32_t k = k0 + ptx::thread_idx() % kGatePiecesPerRow * kPieceElements;
  GateStep step = {};
  if (tile.t0 + row < params.t) step.x = load_bf16_piece(params.x + (tile.t0 + row) * params.x_pitch + k);
#pragma unroll
  for (uint32_t i = 0; i < kGateWPieces; ++i) {
    const uint64_t expert = tile.expert0 + row + i * (gate_logits_threads / kGatePiecesPerRow);
    if (expert >= params.experts) continue;
    const uint64_t element = expert * params.w_pitch + k;
    step.w[i] = params.w_is_bf16 != 0 ? load_bf16_piece(static_cast<const uint16_t*>(params.w) + element)
                                      : load_f32_piece(static_cast<const float*>(params.w) + element);
  }
  return step;
}

// sX: FP32 [32, 36]; sW: FP32 [64, 36], behind it.
PTX_DEVICE uint32_t gate_row(uint32_t row) { return ptx::smem_base() + row * kGateRowPitch * sizeof(float); }

PTX_DEVICE void store_step(const GateStep& step) {
  const uint32_t row = ptx::thread_idx() / kGatePiecesPerRow;
  const uint32_t column = ptx::thread_idx() % kGatePiecesPerRow * kPieceElements * sizeof(float);
  const auto store = [&](uint32_t at_row, const Piece& piece) {
    ptx::sts_v4_u32(gate_row(at_row) + column, piece_bits(piece, 0));
    ptx::sts_v4_u32(gate_row(at_row) + column + 16, piece_bits(piece, 4));
  };
  store(row, step.x);
#pragma unroll
  for (uint32_t i = 0; i < kGateWPieces; ++i) {
    store(kGateBlockTokens + row + i * (gate_logits_threads / kGatePiecesPerRow), step.w[i]);
  }
}

struct Floats4 {
  float value[4];
};

PTX_DEVICE Floats4 lds_floats(uint32_t addr) {
  const ptx::U32x4 v = ptx::lds_v4_u32(addr);
  return {{std::bit_cast<float>(v.x), std::bit_cast<float>(v.y), std::bit_cast<float>(v.z), std::bit_cast<float>(v.w)}};
}

using GateSums = float[kGateTokensPerThread][kGateExpertsPerThread];

// rSum += sX @ sW^T over one step, k ascending.
PTX_DEVICE void multiply_step(GateSums& rSum) {
  const uint32_t tx = ptx::thread_idx() % kGateExpertThreads;
  const uint32_t ty = ptx::thread_idx() / kGateExpertThreads;
#pragma unroll
  for (uint32_t k = 0; k < kGateBlockK; k += 4) {
    Floats4 x[kGateTokensPerThread], w[kGateExpertsPerThread];
#pragma unroll
    for (uint32_t i = 0; i < kGateTokensPerThread; ++i) {
      x[i] = lds_floats(gate_row(ty + i * kGateTokenThreads) + k * sizeof(float));
    }
#pragma unroll
    for (uint32_t j = 0; j < kGateExpertsPerThread; ++j) {
      w[j] = lds_floats(gate_row(kGateBlockTokens + tx + j * kGateExpertThreads) + k * sizeof(float));
    }
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
#pragma unroll
      for (uint32_t i = 0; i < kGateTokensPerThread; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < kGateExpertsPerThread; ++j) {
          rSum[i][j] = ptx::fma_rn(x[i].value[step], w[j].value[step], rSum[i][j]);
        }
      }
    }
  }
}

PTX_DEVICE void store_sums(const GateLogitsParams& params, const GateTile& tile, const GateSums& rSum) {
  const uint32_t tx = ptx::thread_idx() % kGateExpertThreads;
  const uint32_t ty = ptx::thread_idx() / kGateExpertThreads;
#pragma unroll
  for (uint32_t i = 0; i < kGateTokensPerThread; ++i) {
    const uint64_t t = tile.t0 + ty + i * kGateTokenThreads;
    if (t >= params.t) continue;
    float* partial = params.partial + (static_cast<uint64_t>(tile.chunk) * params.t + t) * params.experts;
#pragma unroll
    for (uint32_t j = 0; j < kGateExpertsPerThread; ++j) {
      const uint32_t expert = tile.expert0 + tx + j * kGateExpertThreads;
      if (expert < params.experts) ptx::stg_f32(partial + expert, rSum[i][j]);
    }
  }
}

PTX_DEVICE void gate_logits_kernel(const GateLogitsParams& params) {
  const GateTile tile = gate_tile(params);
  const uint32_t first = tile.chunk * GATE_CHUNK;
  const uint32_t last = params.k - first < GATE_CHUNK ? params.k : first + GATE_CHUNK;
  GateSums rSum = {};
  GateStep next = load_step(params, tile, first);
#pragma unroll 1
  for (uint32_t k = first; k < last; k += kGateBlockK) {
    store_step(next);
    ptx::syncthreads();
    if (k + kGateBlockK < last) next = load_step(params, tile, k + kGateBlockK);
    multiply_step(rSum);
    ptx::syncthreads();  // before the next step overwrites this one
  }
  store_sums(params, tile, rSum);
}

}  // namespace router
