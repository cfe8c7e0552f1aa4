// Logits of the router, in FP32 whatever the model computes in: an error of one BF16 ulp sends one token in ten to
// another set of experts.
//
//   partial[c, t, e] = x[t, K of chunk c] . w[e, K of chunk c]      one chain of FMAs from +0, k ascending
//
//   x BF16 [t, k] · w FP32 or BF16 [experts, k] · partial FP32 [chunks, t, experts]
//
// Schedule: a CTA computes 32 tokens x 64 experts of one chunk, a thread 4 x 4 of them; of few tokens 16 x 16, a thread
// 4 x 1, so that there are CTAs for every multiprocessor. K goes through shared memory 32 elements at a time; the next step
// travels in registers while this one is multiplied. The order of the sum depends neither on the tile nor on the tokens.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
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

// Constants that follow from a configuration.
template <class Config>
struct GateLogitsTile : Config {
  using Config::kBlockExperts, Config::kBlockK, Config::kBlockTokens, Config::kThreads;
  // Floats from row to row in shared memory: with 4 more than a step, 16-byte reads of eight rows meet every bank once.
  static constexpr uint32_t kRowPitch = kBlockK + 4;
  // Threads along the experts of a tile; the others of a warp share their tokens, and read them by broadcast.
  static constexpr uint32_t kExpertThreads = 16;
  static constexpr uint32_t kTokenThreads = kThreads / kExpertThreads;
  static constexpr uint32_t kTokensPerThread = kBlockTokens / kTokenThreads;
  static constexpr uint32_t kExpertsPerThread = kBlockExperts / kExpertThreads;
  static constexpr uint32_t kPiecesPerRow = kBlockK / kPieceElements;
  static constexpr uint32_t kRowsAtOnce = kThreads / kPiecesPerRow;
  static constexpr uint32_t kWPieces = kBlockExperts / kRowsAtOnce;  // of a thread
  static_assert(kBlockTokens == kRowsAtOnce, "a thread loads one piece of x");
};

template <class Config, class Tile = GateLogitsTile<Config>>
struct GateLogitsStorage {
  float x[Tile::kBlockTokens][Tile::kRowPitch];
  float w[Tile::kBlockExperts][Tile::kRowPitch];
};

template <class Config>
struct GateStep {
  Piece x;
  Piece w[GateLogitsTile<Config>::kWPieces];
};

struct GateTile {
  uint32_t t0, expert0, chunk;
};

template <class Config>
PTX_DEVICE GateTile gate_tile(const GateLogitsParams& params) {
  const uint32_t expert_tiles = ceil_div(params.experts, Config::kBlockExperts);
  const uint32_t chunks = ceil_div(params.k, GATE_CHUNK);
  const uint32_t cta = ptx::cta_idx();
  const uint32_t t0 = cta / chunks / expert_tiles * Config::kBlockTokens;
  return {t0, cta / chunks % expert_tiles * Config::kBlockExperts, cta % chunks};
}

// Rows past the end are zeros: their sums are not stored.
template <class Config>
PTX_DEVICE GateStep<Config> load_step(const GateLogitsParams& params, const GateTile& tile, uint32_t k0) {
  using Tile = GateLogitsTile<Config>;
  const uint32_t row = ptx::thread_idx() / Tile::kPiecesPerRow;
  const uint32_t k = k0 + ptx::thread_idx() % Tile::kPiecesPerRow * kPieceElements;
  GateStep<Config> step = {};
  if (tile.t0 + row < params.t) step.x = load_bf16_piece(params.x + (tile.t0 + row) * params.x_pitch + k);
#pragma unroll
  for (uint32_t i = 0; i < Tile::kWPieces; ++i) {
    const uint64_t expert = tile.expert0 + row + i * Tile::kRowsAtOnce;
    if (expert >= params.experts) continue;
    const uint64_t element = expert * params.w_pitch + k;
    step.w[i] = params.w_is_bf16 != 0 ? load_bf16_piece(static_cast<const uint16_t*>(params.w) + element)
                                      : load_f32_piece(static_cast<const float*>(params.w) + element);
  }
  return step;
}

// Of sX, and from row kBlockTokens on of sW, which lies behind it.
template <class Config>
PTX_DEVICE uint32_t gate_row(uint32_t row) {
  return ptx::smem_base() + row * GateLogitsTile<Config>::kRowPitch * sizeof(float);
}

template <class Config>
PTX_DEVICE void store_step(const GateStep<Config>& step) {
  using Tile = GateLogitsTile<Config>;
  const uint32_t row = ptx::thread_idx() / Tile::kPiecesPerRow;
  const uint32_t column = ptx::thread_idx() % Tile::kPiecesPerRow * kPieceElements * sizeof(float);
  const auto store = [&](uint32_t at_row, const Piece& piece) {
    ptx::sts_v4_u32(gate_row<Config>(at_row) + column, piece_bits(piece, 0));
    ptx::sts_v4_u32(gate_row<Config>(at_row) + column + 16, piece_bits(piece, 4));
  };
  store(row, step.x);
#pragma unroll
  for (uint32_t i = 0; i < Tile::kWPieces; ++i) {
    store(Config::kBlockTokens + row + i * Tile::kRowsAtOnce, step.w[i]);
  }
}

struct Floats4 {
  float value[4];
};

PTX_DEVICE Floats4 lds_floats(uint32_t addr) {
  const ptx::U32x4 v = ptx::lds_v4_u32(addr);
  return {{std::bit_cast<float>(v.x), std::bit_cast<float>(v.y), std::bit_cast<float>(v.z), std::bit_cast<float>(v.w)}};
}

template <class Config>
using GateSums = float[GateLogitsTile<Config>::kTokensPerThread][GateLogitsTile<Config>::kExpertsPerThread];

// rSum += sX @ sW^T over one step, k ascending.
template <class Config>
PTX_DEVICE void multiply_step(GateSums<Config>& rSum) {
  using Tile = GateLogitsTile<Config>;
  const uint32_t tx = ptx::thread_idx() % Tile::kExpertThreads;
  const uint32_t ty = ptx::thread_idx() / Tile::kExpertThreads;
#pragma unroll
  for (uint32_t k = 0; k < Config::kBlockK; k += 4) {
    Floats4 x[Tile::kTokensPerThread], w[Tile::kExpertsPerThread];
#pragma unroll
    for (uint32_t i = 0; i < Tile::kTokensPerThread; ++i) {
      x[i] = lds_floats(gate_row<Config>(ty + i * Tile::kTokenThreads) + k * sizeof(float));
    }
#pragma unroll
    for (uint32_t j = 0; j < Tile::kExpertsPerThread; ++j) {
      w[j] = lds_floats(gate_row<Config>(Config::kBlockTokens + tx + j * Tile::kExpertThreads) + k * sizeof(float));
    }
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
#pragma unroll
      for (uint32_t i = 0; i < Tile::kTokensPerThread; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < Tile::kExpertsPerThread; ++j) {
          rSum[i][j] = ptx::fma_rn(x[i].value[step], w[j].value[step], rSum[i][j]);
        }
      }
    }
  }
}

template <class Config>
PTX_DEVICE void store_sums(const GateLogitsParams& params, const GateTile& tile, const GateSums<Config>& rSum) {
  using Tile = GateLogitsTile<Config>;
  const uint32_t tx = ptx::thread_idx() % Tile::kExpertThreads;
  const uint32_t ty = ptx::thread_idx() / Tile::kExpertThreads;
#pragma unroll
  for (uint32_t i = 0; i < Tile::kTokensPerThread; ++i) {
    const uint64_t t = tile.t0 + ty + i * Tile::kTokenThreads;
    if (t >= params.t) continue;
    float* partial = params.partial + (static_cast<uint64_t>(tile.chunk) * params.t + t) * params.experts;
#pragma unroll
    for (uint32_t j = 0; j < Tile::kExpertsPerThread; ++j) {
      const uint32_t expert = tile.expert0 + tx + j * Tile::kExpertThreads;
      if (expert < params.experts) ptx::stg_f32(partial + expert, rSum[i][j]);
    }
  }
}

template <class Config>
PTX_DEVICE void gate_logits_kernel(const GateLogitsParams& params) {
  enter_grid();
  const GateTile tile = gate_tile<Config>(params);
  const uint32_t first = tile.chunk * GATE_CHUNK;
  const uint32_t last = params.k - first < GATE_CHUNK ? params.k : first + GATE_CHUNK;
  GateSums<Config> rSum = {};
  GateStep<Config> next = load_step<Config>(params, tile, first);
#pragma unroll 1
  for (uint32_t k = first; k < last; k += Config::kBlockK) {
    store_step(next);
    ptx::syncthreads();
    if (k + Config::kBlockK < last) next = load_step<Config>(params, tile, k + Config::kBlockK);
    multiply_step<Config>(rSum);
    ptx::syncthreads();  // before the next step overwrites this one
  }
  store_sums<Config>(params, tile, rSum);
}

}  // namespace router
