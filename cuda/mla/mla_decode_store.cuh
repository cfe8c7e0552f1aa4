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
#include "ptx/sync.h"
#include "ptx/target.h"

namespace mla {

// Row `row` of the CTA's 64, of out; null behind the last one of the sequence.
PTX_DEVICE uint16_t* out_row(const MlaDecodeParams& params, const MlaWork& work, uint32_t row) {
  const uint32_t of_sequence = work.first_row + row;
  if (of_sequence >= work.rows) return nullptr;
  return params.out + (static_cast<uint64_t>(work.first_token) * params.heads + of_sequence) * params.out_pitch;
}

// out <- rO: BF16, by way of the values that the warpgroup has read last. TMA would not stop at the end of a sequence, behind
// which lies the next one's output.
template <class Config>
PTX_DEVICE void store_out(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work, uint32_t half,
                          Ring<Config::kStages> kv, const float (&rO)[Config::kOutRegisters]) {
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t sOut = smem.kv(kv.stage, half * Config::kHalfTiles);
  // What this CTA has dequantised has reached its peer, whose scores are done.
  if constexpr (Config::kCache != Config::Cache::kBf16 && Config::kCluster > 1) {
    await_release<Config::kCluster>(smem.kv_empty(kv.stage, kRope), kv.phase);
  }
  warpgroup_sync(half);  // all its warps have read the values
  const auto tile_row = [&](uint32_t tile, uint32_t row) { return sOut + tile * Config::kTileBytes + row * 128; };
  store_fragment_bf16<128>(thread, rO, tile_row);
  ptx::fence_proxy_async_shared();  // TMA will write there
  copy_fragment_rows<128, Config::kHalfColumns>(thread, tile_row, [&](uint32_t row) {
    uint16_t* gRow = out_row(params, work, row);
    return gRow == nullptr ? gRow : gRow + half * Config::kHalfColumns;
  });
}

// out <- zeros: of a sequence without keys, by the left warpgroup.
PTX_DEVICE void store_zeros(const MlaDecodeParams& params, const MlaWork& work) {
  constexpr uint32_t kChunks = MLA_LATENT * 2 / 16;
#pragma unroll 1
  for (uint32_t i = ptx::thread_idx() % 128; i < MlaDecodeConfig::kBlockRows * kChunks; i += 128) {
    uint16_t* gRow = out_row(params, work, i / kChunks);
    if (gRow != nullptr) ptx::stg_v4_u32(gRow + i % kChunks * 8, {});
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
    if (row >= work.rows) continue;
    float* gO = params.part_out + (static_cast<uint64_t>(part.index) * params.rows + row) * MLA_LATENT + column;
#pragma unroll
    for (uint32_t i = 0; i < Config::kOutRegisters; i += 4) {
      ptx::stg_v2_u32(gO + 2 * i, std::bit_cast<uint32_t>(rO[i + 2 * r]), std::bit_cast<uint32_t>(rO[i + 2 * r + 1]));
    }
  }
}

}  // namespace mla
