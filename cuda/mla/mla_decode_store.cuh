// The way of MLA decode's results out of the registers of a warpgroup, which has 256 of the 512 columns.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/tile/fragment.h"
#include "hopper/tile/swizzle.h"
#include "mla/mla_decode_tile.cuh"
#include "mla/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"

namespace mla {

// out <- rO / l: BF16, through the shared memory of Q, by TMA, which clips at the last row.
template <class Config>
PTX_DEVICE void store_out(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work, uint32_t half,
                          const float (&rO)[Config::kOutRegisters], const float (&inverse)[2]) {
  const uint32_t thread = ptx::thread_idx() % 128, lane = thread % 32;
  const uint32_t row = 16 * (thread / 32) + stmatrix_row(lane);
#pragma unroll
  for (int column = 0; column < Config::kHalfColumns; column += 16) {
    const uint32_t tile = half * Config::kHalfTiles + column / Config::kTileColumns;
    const uint32_t sO = smem.q(tile) + row * 128 + (column % Config::kTileColumns + stmatrix_column(lane)) * 2;
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = column / 2 + 2 * i;
      pairs[i] = ptx::cvt_bf16x2(rO[r + 1] * inverse[i % 2], rO[r] * inverse[i % 2]);
    }
    ptx::stmatrix_x4(swizzle<128>(sO), pairs[0], pairs[1], pairs[2], pairs[3]);
  }
  ptx::fence_proxy_async_shared();
  warpgroup_sync(half);
  if (thread == 0) {
#pragma unroll 1
    for (uint32_t tile = half * Config::kHalfTiles; tile < (half + 1) * Config::kHalfTiles; ++tile) {
      ptx::tma_store_3d(params.map_out, smem.q(tile), tile * Config::kTileColumns, work.first_row, work.sequence);
    }
    ptx::bulk_commit_group();
    ptx::bulk_wait_group_read<0>();  // the next Q goes there
  }
}

// part_out <- rO, FP32, as it is: the combine divides.
template <class Config>
PTX_DEVICE void store_part(const MlaDecodeParams& params, const MlaWork& work, MlaPart part, uint32_t half,
                           const float (&rO)[Config::kOutRegisters]) {
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t column = half * Config::kHalfColumns + fragment_column(thread);
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    const uint32_t row = work.first_row + fragment_row(thread) + 8 * r;
    if (row >= params.rows) continue;
    float* gO = params.part_out + (static_cast<uint64_t>(part.index) * params.rows + row) * MLA_LATENT + column;
#pragma unroll
    for (uint32_t i = 0; i < Config::kOutRegisters; i += 4) {
      ptx::stg_v2_u32(gO + 2 * i, std::bit_cast<uint32_t>(rO[i + 2 * r]), std::bit_cast<uint32_t>(rO[i + 2 * r + 1]));
    }
  }
}

}  // namespace mla
