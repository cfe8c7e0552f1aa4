// Scales [m, k/128] -> [k/128, m]: the layout in which the GEMM's TMA fetches the scales of a tile as one row.
//
//   out[g, m] = sf[m, g]
//
// Schedule: 32 x 32 tiles through shared memory, so that both sides are read and written along their rows.
#pragma once
#include "hopper/tile/order.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "quant/params.h"

namespace quant {

constexpr uint32_t transpose_scales_threads = 256;
constexpr uint32_t transpose_scales_tile = 32;
constexpr uint32_t transpose_scales_pitch = transpose_scales_tile + 1;  // a column of the tile meets every bank once
constexpr uint32_t transpose_scales_smem_bytes = transpose_scales_tile * transpose_scales_pitch * sizeof(float);

PTX_DEVICE void transpose_scales_kernel(const TransposeScalesParams& params) {
  constexpr uint32_t kTile = transpose_scales_tile;
  constexpr uint32_t kRowsAtOnce = transpose_scales_threads / kTile;
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
    ptx::sts_f32(smem + (i * transpose_scales_pitch + x) * sizeof(float), value);
  }
  ptx::syncthreads();
#pragma unroll
  for (uint32_t i = y; i < kTile; i += kRowsAtOnce) {
    if (g0 + i >= params.k_blocks || m0 + x >= params.m) continue;
    const float value = ptx::lds_f32(smem + (x * transpose_scales_pitch + i) * sizeof(float));
    ptx::stg_f32(params.out + (g0 + i) * params.out_pitch + m0 + x, value);
  }
}

}  // namespace quant
