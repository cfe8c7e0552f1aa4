// The way of MLA decode's results out of the registers of a warpgroup, which has 256 of the 512 columns.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/tile/fragment.h"
#include "mla/mla_decode_tile.cuh"
#include "mla/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "ptx/tma.h"

namespace mla {

// out <- rO: BF16, through the shared memory of Q, by TMA, which clips at the last row.
template <class Config>
PTX_DEVICE void store_out(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work, uint32_t half,
                          const float (&rO)[Config::kOutRegisters]) {
  const uint32_t thread = ptx::thread_idx() % 128;
  store_fragment_bf16<128>(
      thread, rO, [&](uint32_t tile, uint32_t row) { return smem.q(half * Config::kHalfTiles + tile) + row * 128; });
  warpgroup_fence_async(half);
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
