// The way of a tile of D out of the registers of a math warpgroup: optional sum with D, rounding, shared memory, copy.
#pragma once
#include <cstdint>

#include "gemm/fp8_gemm_tile.cuh"
#include "gemm/params.h"
#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/tile/fragment.h"
#include "hopper/tile/swizzle.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/target.h"
#include "ptx/tma.h"

namespace gemm {

// rD += D, for the elements that exist. n is a multiple of 8, so the two columns of a register pair exist together.
template <class Config>
PTX_DEVICE void add_d(const Fp8GemmParams& params, float (&rD)[Fp8GemmTile<Config>::kRegisters], GemmTile tile,
                      uint32_t slice_row) {
  using Tile = Fp8GemmTile<Config>;
  const uint8_t* gD = static_cast<const uint8_t*>(params.d);
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t row0 = tile.row + slice_row + fragment_row(thread);
  const uint32_t column0 = tile.column + fragment_column(thread);
#pragma unroll
  for (int i = 0; i < Tile::kRegisters; i += 2) {
    const uint64_t row = row0 + 8 * (i % 4 / 2);
    const uint32_t column = column0 + 8 * (i / 4);
    if (!tile.has(row) || column >= params.n) continue;
    const uint8_t* p = gD + (row * params.d_pitch + column) * Tile::kElementBytes;
    if constexpr (Tile::kOutputBf16) {
      const uint32_t pair = ptx::ld_global_u32(p);
      rD[i] += ptx::bf16_lo_f32(pair);
      rD[i + 1] += ptx::bf16_hi_f32(pair);
    } else {
      rD[i] += ptx::ld_global_f32(p);
      rD[i + 1] += ptx::ld_global_f32(p + 4);
    }
  }
}

// sD <- rD, one 64-row slice that starts at `slice_row` of the tile; rounds to BF16 here, once.
template <class Config>
PTX_DEVICE void write_slice(Fp8GemmSmem<Config> smem, const float (&rD)[Fp8GemmTile<Config>::kRegisters],
                            uint32_t slice_row) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t thread = ptx::thread_idx() % 128;
  if constexpr (Tile::kOutputBf16) {
    store_fragment_bf16<Tile::kChunkBytes>(
        thread, rD, [&](uint32_t chunk, uint32_t row) { return smem.d(chunk, slice_row + row); });
  } else {
#pragma unroll
    for (int column = 0; column < Config::kBlockN; column += 8) {
      const uint32_t byte = column % Tile::kChunkColumns * Tile::kElementBytes;
      const int r = column / 2;  // first register of these columns
      const uint32_t sD =
          smem.d(column / Tile::kChunkColumns, slice_row + fragment_row(thread)) + byte + fragment_column(thread) * 4;
      ptx::sts_v2_f32(swizzle<Tile::kChunkBytes>(sD), rD[r], rD[r + 1]);
      ptx::sts_v2_f32(swizzle<Tile::kChunkBytes>(sD + 8 * Tile::kChunkBytes), rD[r + 2], rD[r + 3]);
    }
  }
}

// gD <- sD for the rows of one slice that exist, 16 bytes a thread: where the slice has somebody else's rows too.
template <class Config>
PTX_DEVICE void copy_rows(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, GemmTile tile, uint32_t slice_row) {
  using Tile = Fp8GemmTile<Config>;
  constexpr uint32_t kPieceColumns = 16 / Tile::kElementBytes;
  constexpr uint32_t kPieces = Config::kBlockN / kPieceColumns;
  uint8_t* gD = static_cast<uint8_t*>(params.d);
#pragma unroll 1
  for (uint32_t i = ptx::thread_idx() % 128; i < Config::kWgmmaM * kPieces; i += 128) {
    const uint64_t row = tile.row + slice_row + i / kPieces;
    const uint32_t column = i % kPieces * kPieceColumns;
    if (!tile.has(row) || tile.column + column >= params.n) continue;
    const uint32_t sD = smem.d(column / Tile::kChunkColumns, slice_row + i / kPieces) +
                        column % Tile::kChunkColumns * Tile::kElementBytes;
    ptx::stg_v4_u32(gD + (row * params.d_pitch + tile.column + column) * Tile::kElementBytes,
                    ptx::lds_v4_u32(swizzle<Tile::kChunkBytes>(sD)));
  }
}

// gD <- sD for one slice, by TMA, which clips at the edges of D. One thread.
template <class Config>
PTX_DEVICE void copy_slice(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, GemmTile tile, uint32_t slice_row) {
  using Tile = Fp8GemmTile<Config>;
#pragma unroll
  for (int chunk = 0; chunk < Config::kBlockN / Tile::kChunkColumns; ++chunk) {
    ptx::tma_store_2d(params.map_d, smem.d(chunk, slice_row), tile.column + chunk * Tile::kChunkColumns,
                      tile.row + slice_row);
  }
}

// D <- rD: registers -> shared memory -> global memory. TMA's copy overlaps the next tile's products.
template <class Config, class Schedule>
PTX_DEVICE void store(const Fp8GemmParams& params, Fp8GemmSmem<Config> smem, uint32_t warpgroup, GemmTile tile,
                      float (&rD)[Fp8GemmTile<Config>::kSlices][Fp8GemmTile<Config>::kRegisters]) {
  using Tile = Fp8GemmTile<Config>;
  const uint32_t thread = ptx::thread_idx() % 128;
  const uint32_t first_row = warpgroup * Tile::kSlices * Config::kWgmmaM;
  if (thread == 0) ptx::bulk_wait_group_read<0>();  // the previous tile's copy has left sD
  warpgroup_sync(warpgroup);
#pragma unroll
  for (int slice = 0; slice < Tile::kSlices; ++slice) {
    const uint32_t slice_row = first_row + slice * Config::kWgmmaM;
    if (params.accumulate != 0) {
      add_d<Config>(params, rD[slice], tile, slice_row);
    }
    write_slice<Config>(smem, rD[slice], slice_row);
  }
  warpgroup_fence_async(warpgroup);
#pragma unroll
  for (int slice = 0; slice < Tile::kSlices; ++slice) {
    const uint32_t slice_row = first_row + slice * Config::kWgmmaM;
    const uint32_t row = tile.row + slice_row;
    if (Schedule::kMapClipsRows || (row >= tile.row_begin && row + Config::kWgmmaM <= tile.row_end)) {
      if (thread == 0) copy_slice(params, smem, tile, slice_row);
    } else {
      copy_rows(params, smem, tile, slice_row);
    }
  }
  if (thread == 0) ptx::bulk_commit_group();
}

// What becomes of the sums of a tile: D.
template <class Config, class Schedule>
struct StoreD {
  using Tile = Fp8GemmTile<Config>;
  const Fp8GemmParams& params;
  Fp8GemmSmem<Config> smem;

  PTX_DEVICE void prefetch_map() const {
    if (ptx::thread_idx() == 0) ptx::prefetch_tensormap(params.map_d);
  }

  PTX_DEVICE void operator()(uint32_t warpgroup, GemmTile tile,
                             float (&rD)[Tile::kSlices][Tile::kRegisters]) const {
    store<Config, Schedule>(params, smem, warpgroup, tile, rD);
  }

  // After the last tile: shared memory must outlive the last copy out of it.
  PTX_DEVICE void end() const {
    if (ptx::thread_idx() % 128 == 0) ptx::bulk_wait_group_read<0>();
  }
};

}  // namespace gemm
