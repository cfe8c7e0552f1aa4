// The first GEMM of the experts with the activation behind it: gate and up of every row, SwiGLU, E4M3 with one scale per 1x128.
//
//   gate, up = bf16(D[r, c]), bf16(D[r, n + c])      D: of grouped_fp8_gemm, never written      for every row r of expert e
//   up, gate = the same, where B has up first
//   q, sf    = quantised swiglu(gate, up), as swiglu_quantize does to the bit
//
//   A [rows, k], B [experts, 2, n, k] E4M3 · sfa FP32 [ceil(k/128), rows] · sfb FP32 [experts, 2, ceil(n/128), ceil(k/128)]
//   q E4M3 [rows, n] · sf FP32 [ceil(n/128), rows]; n a multiple of 16
//
// Schedule: the roles of grouped_fp8_gemm.cuh. A tile of B is 64 columns of gate and the 64 of up that belong to them, so that
// a thread has both of an element. A block of 128 columns of h is two such tiles, one after the other in the same CTA: h of the
// first waits in shared memory, where its own thread put it. The lanes that share a row find the block's amax by shuffles.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

#include "gemm/grouped_fp8_gemm.cuh"
#include "hopper/cta/warp_reduce.cuh"
#include "hopper/tile/fragment.h"
#include "hopper/tile/swizzle.h"
#include "moe/params.h"
#include "moe/swiglu.cuh"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "quant/quantize_row.cuh"
#include "quant/scale.h"

namespace moe {

// The tiles of one CTA: the two of a block of h, then those of the next block.
template <class Config>
struct GateUpSchedule {
  gemm::GroupedSchedule<Config> blocks;
  uint32_t second = 0;

  PTX_DEVICE bool has_tile() const { return blocks.has_tile(); }

  PTX_DEVICE void advance() {
    if (second != 0) blocks.advance();
    second ^= 1;
  }

  PTX_DEVICE gemm::GemmTile tile() const {
    gemm::GemmTile tile = blocks.tile();
    tile.column += second * (Config::kBlockN / Config::kPanels);
    return tile;
  }
};

// What becomes of the sums of a tile: of the first of a block, h that waits; of the second, codes and scales.
template <class Config>
struct StoreActivated {
  static constexpr uint32_t kBlock = quant::kQuantizeBlock;
  static constexpr int kSums = Config::kBlockN / 2;  // of a thread: of gate, then of up
  static constexpr uint32_t kOwn = kBlock / 4;       // columns of a block that a thread has; of its first tile, half of them
  static constexpr uint32_t kWarpRows = 16;
  static constexpr uint32_t kWarpBytes = kWarpRows * kBlock / 2 * sizeof(float);

  // h of a thread's two rows, eight apart.
  using Rows = float[2][kOwn];

  const GateUpSwigluParams& params;
  gemm::Fp8GemmSmem<Config> smem;

  static_assert(Config::kPanels == 2 && Config::kBlockN == kBlock, "a block is two tiles, of gate and of up");
  static_assert(gemm::Fp8GemmTile<Config>::kSlices == 1, "h of one slice waits");
  static_assert(sizeof(gemm::Fp8GemmStorage<Config>::d) == Config::kBlockM / kWarpRows * kWarpBytes);

  // The warp's own part of where D would be.
  PTX_DEVICE uint32_t own() const { return smem.d(0, 0) + ptx::thread_idx() / 32 * kWarpBytes; }

  PTX_DEVICE void operator()(uint32_t warpgroup, gemm::GemmTile tile, float (&rD)[1][kSums]) const {
    const bool first = tile.column % kBlock == 0;
    Rows h;
    activate(rD[0], h);
    if (first) {
      park(h);
      return;
    }
    unpark(h);
    quantize(tile, warpgroup * Config::kWgmmaM, h);
  }

  PTX_DEVICE void end() const {}

  // The second halves of h <- what the sums of gate and up give, rounded to BF16 as a D in memory is. Columns past the last
  // are zero: boxes end with their matrix.
  PTX_DEVICE void activate(const float (&rD)[kSums], Rows& h) const {
#pragma unroll
    for (int r = 0; r < kSums / 2; r += 2) {
      const uint32_t first = ptx::cvt_bf16x2(rD[r + 1], rD[r]);
      const uint32_t second = ptx::cvt_bf16x2(rD[kSums / 2 + r + 1], rD[kSums / 2 + r]);
      const uint32_t gate = params.up_first != 0 ? second : first;
      const uint32_t up = params.up_first != 0 ? first : second;
      float* pair = h[r % 4 / 2] + kOwn / 2 + r / 4 * 2;
      pair[0] = swiglu(ptx::bf16_lo_f32(gate), ptx::bf16_lo_f32(up), params.clamp);
      pair[1] = swiglu(ptx::bf16_hi_f32(gate), ptx::bf16_hi_f32(up), params.clamp);
    }
  }

  // Where four elements of a lane wait.
  PTX_DEVICE uint32_t parked(uint32_t row, uint32_t i) const {
    return own() + (row * kOwn / 2 + i) * 32 * sizeof(float) + ptx::thread_idx() % 32 * 4 * sizeof(float);
  }

  PTX_DEVICE void park(const Rows& h) const {
#pragma unroll
    for (uint32_t row = 0; row < 2; ++row) {
#pragma unroll
      for (uint32_t i = 0; i < kOwn / 2; i += 4) {
        const auto bits = [&](uint32_t j) { return std::bit_cast<uint32_t>(h[row][kOwn / 2 + i + j]); };
        ptx::sts_v4_u32(parked(row, i), {bits(0), bits(1), bits(2), bits(3)});
      }
    }
  }

  PTX_DEVICE void unpark(Rows& h) const {
#pragma unroll
    for (uint32_t row = 0; row < 2; ++row) {
#pragma unroll
      for (uint32_t i = 0; i < kOwn / 2; i += 4) {
        const ptx::U32x4 v = ptx::lds_v4_u32(parked(row, i));
        h[row][i] = std::bit_cast<float>(v.x);
        h[row][i + 1] = std::bit_cast<float>(v.y);
        h[row][i + 2] = std::bit_cast<float>(v.z);
        h[row][i + 3] = std::bit_cast<float>(v.w);
      }
    }
  }

  // q, sf <- the block of the tile's rows from `slice_row` on.
  PTX_DEVICE void quantize(gemm::GemmTile tile, uint32_t slice_row, const Rows& h) const {
    const uint32_t thread = ptx::thread_idx() % 128;
    const uint64_t block = tile.column / kBlock;
    float scale[2];
    uint32_t codes[2][kOwn / 4];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const float amax = warp_reduce<4>(quant::finite_amax(h[i]), quant::max_of);
      const quant::BlockScale of_row = quant::block_scale(amax, params.rule);
      scale[i] = of_row.scale;
      encode(h[i], of_row, codes[i]);
    }
    ptx::syncwarp();  // every lane has what it had parked
    write_codes(codes);
    ptx::syncwarp();
    copy_codes(tile, slice_row + thread / 32 * kWarpRows);
    ptx::syncwarp();  // the next block's h may wait there
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint64_t row = tile.row + slice_row + fragment_row(thread) + 8 * i;
      if (!tile.has(row)) continue;
      if (thread % 4 == 0) ptx::stg_f32(params.sf + block * params.sf_pitch + row, scale[i]);
      quant::report_nonfinite(params.grouped.error_words, h[i]);
    }
  }

  // Codes of a lane's columns of a row, in pairs: a word has one pair of eight columns and that of the next eight.
  PTX_DEVICE void encode(const float (&h)[kOwn], quant::BlockScale scale, uint32_t (&codes)[kOwn / 4]) const {
    float x[kOwn];
#pragma unroll
    for (uint32_t i = 0; i < kOwn; ++i) x[i] = h[i] * scale.factor;
#pragma unroll
    for (uint32_t i = 0; i < kOwn / 4; ++i) codes[i] = quant::four_codes(x + 4 * i);
  }

  // sQ <- the warp's 16 rows of codes. stmatrix takes a word for two neighbouring pairs, and so puts the pairs of each 16 columns
  // in the order 0, 4, 1, 5, 2, 6, 3, 7.
  PTX_DEVICE void write_codes(const uint32_t (&codes)[2][kOwn / 4]) const {
    const uint32_t lane = ptx::thread_idx() % 32;
    const uint32_t sQ = own() + stmatrix_row(lane) * kBlock + stmatrix_column(lane) * 2;
#pragma unroll
    for (uint32_t i = 0; i < kOwn / 4; i += 2) {
      ptx::stmatrix_x4(swizzle<kBlock>(sQ + 16 * i), codes[0][i], codes[1][i], codes[0][i + 1], codes[1][i + 1]);
    }
  }

  // gQ <- sQ for the rows that exist, 16 columns a lane, in their order.
  PTX_DEVICE void copy_codes(gemm::GemmTile tile, uint32_t warp_row) const {
    const uint32_t lane = ptx::thread_idx() % 32;
    const uint32_t first = tile.column / kBlock * kBlock, column = lane % 8 * 16;
    const auto low = [](uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; };
    const auto high = [](uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); };
#pragma unroll
    for (uint32_t row = lane / 8; row < kWarpRows; row += 4) {
      const ptx::U32x4 v = ptx::lds_v4_u32(swizzle<kBlock>(own() + row * kBlock + column));
      const uint64_t to = tile.row + warp_row + row;
      if (!tile.has(to) || first + column >= params.grouped.gemm.n) continue;
      ptx::stg_v4_u32(params.q + to * params.q_pitch + first + column,
                      {low(v.x, v.y), low(v.z, v.w), high(v.x, v.y), high(v.z, v.w)});
    }
  }
};

template <class Config>
PTX_DEVICE void gate_up_swiglu(const GateUpSwigluParams& params) {
  const gemm::GroupedFp8GemmSmem<Config> smem{ptx::warp_uniform(ptx::smem_base())};
  gemm::prefetch_maps(params.grouped.gemm);
  gemm::enter_segments(params.grouped, smem);
  const GateUpSchedule<Config> schedule{gemm::GroupedSchedule<Config>(params.grouped, smem.segments())};
  gemm::run_roles(params.grouped.gemm, smem.ring, schedule, StoreActivated<Config>{params, smem.ring});
}

}  // namespace moe
