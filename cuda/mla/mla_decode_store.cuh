// The way of MLA decode's results out of the registers of a warpgroup, which has 256 of the 512 columns.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/tile/fragment.h"
#include "hopper/tile/ring.h"
#include "mla/mla_decode_tile.cuh"
#include "mla/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/target.h"
#include "ptx/tma.h"

namespace mla {

// out <- sTiles, of 64 x 64 BF16 from tile `first` of the output on, by TMA, which clips at the last row; until they have been
// read. One thread. `step_bytes`: from one to the next.
PTX_DEVICE void copy_out(const MlaDecodeParams& params, const MlaWork& work, uint32_t sTiles, uint32_t step_bytes,
                         uint32_t first, uint32_t count) {
#pragma unroll 1
  for (uint32_t i = 0; i < count; ++i) {
    ptx::tma_store_3d(params.map_out, sTiles + i * step_bytes, (first + i) * MlaDecodeConfig::kTileColumns,
                      work.first_row, work.sequence);
  }
  ptx::bulk_commit_group();
  ptx::bulk_wait_group_read<0>();
}

// out <- rO: BF16, through the place of the values that the warpgroup has read last.
template <class Config>
PTX_DEVICE void store_out(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work, uint32_t half,
                          Ring<Config::kStages> kv, const float (&rO)[Config::kOutRegisters]) {
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t sOut = smem.kv(kv.stage, half * Config::kHalfTiles);
  // What this CTA has dequantised has reached its peer, whose scores are done.
  if constexpr (Config::kCache == Config::Cache::kFp8 && Config::kCluster > 1) {
    await_release<Config::kCluster>(smem.kv_empty(kv.stage, kRope), kv.phase);
  }
  warpgroup_sync(half);  // all its warps have read the values
  store_fragment_bf16<128>(
      thread, rO, [&](uint32_t tile, uint32_t row) { return sOut + tile * Config::kTileBytes + row * 128; });
  warpgroup_fence_async(half);
  if (thread == 0) copy_out(params, work, sOut, Config::kTileBytes, half * Config::kHalfTiles, Config::kHalfTiles);
}

// out <- zeros: of a sequence without keys, by the left warpgroup, from the place of the weights. The right one has read the
// last of those, or the left one would not have published 1 / l.
template <class Config>
PTX_DEVICE void store_zeros(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work) {
  const uint32_t thread = ptx::thread_idx() % 128;
#pragma unroll 1
  for (uint32_t byte = thread * 16; byte < Config::kTileBytes; byte += 128 * 16) ptx::sts_v4_u32(smem.p() + byte, {});
  warpgroup_fence_async(0);
  if (thread == 0) copy_out(params, work, smem.p(), 0, 0, Config::kRopeTile);
  warpgroup_sync(0);  // until the zeros have been read
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
