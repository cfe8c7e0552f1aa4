// Scales [m, k/128] -> [k/128, m]: the layout in which the GEMM's TMA fetches the scales of a tile as one row.
//
//   out[g, m] = sf[m, g]
//
// Schedule: 32 x 32 tiles through shared memory, so that both sides are read and written along their rows.
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/tile/order.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "quant/params.h"

namespace quant {

template <class Config>
struct TransposeScalesStorage {
  float tile[Config::kTile][Config::kTile + 1];  // a column of the tile meets every bank once
};

template <class Config>
PTX_DEVICE void transpose_scales_kernel(const TransposeScalesParams& params) {
  constexpr uint32_t kTile = Config::kTile, kPitch = kTile + 1;
  constexpr uint32_t kRowsAtOnce = Config::kThreads / kTile;
  enter_grid();
  const uint32_t smem = ptx::smem_base();
  const uint32_t x = ptx::thread_idx() % kTile;
  const uint32_t y = ptx::thread_idx() / kTile;
  const uint32_t g_tiles = ceil_div(params.k_blocks, kTile);
  const uint64_t m0 = static_cast<uint64_t>(ptx::cta_idx() / g_tiles) * kTile;
  const uint64_t g0 = static_cast<uint64_t>(ptx::cta_idx() % g_tiles) * kTile;

#pragma unroll
  for (uint32_t i = y; i < kTile; i += kRowsAtOnce) {
    if (m0 + i >= params.m || g0 + x >= params.k_blocks) continue;
    const float value = ptx::ldg_f32(params.sf + (m0 + i) * params.sf_pitch + g0 + x);
    ptx::sts_f32(smem + (i * kPitch + x) * sizeof(float), value);
  }
  ptx::syncthreads();
#pragma unroll
  for (uint32_t i = y; i < kTile; i += kRowsAtOnce) {
    if (g0 + i >= params.k_blocks || m0 + x >= params.m) continue;
    const float value = ptx::lds_f32(smem + (x * kPitch + i) * sizeof(float));
    ptx::stg_f32(params.out + (g0 + i) * params.out_pitch + m0 + x, value);
  }
}

}  // namespace quant
