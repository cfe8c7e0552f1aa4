// The functions of cuda/hopper/tile, evaluated: one result per thread, or one grid of tiles per CTA.
//
//   arguments  function, count
//   input      kTiles: m_tiles, n_tiles, first word of the result, unused  [grid, 4]
//   output     kSwizzle: of address i, by spans 32, 64, 128, and 0  [count, 4]
//              kFragment: fragment_row, fragment_column, stmatrix_row, stmatrix_column of i  [count, 4]
//              kDescriptor: of address 16 i, and advanced by 32 (i % 4) bytes, low words first  [count, 4]
//              kMnDescriptor: the same, N-major, of chunks i % 256 KiB apart, advanced by 2048 (i % 4) bytes
//              kRing: stage and phase after i steps, for 1 to 12 stages  [12, count, 2]
//              kTiles: tile_coord of every tile  [m_tiles * n_tiles, 2]
#pragma once
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/params.h"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/fragment.h"
#include "hopper/tile/order.h"
#include "hopper/tile/ring.h"
#include "hopper/tile/swizzle.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

enum class ProbeLayout : uint32_t { kSwizzle, kFragment, kDescriptor, kRing, kTiles, kMnDescriptor };

constexpr uint32_t kProbeLayoutThreads = 128;

PTX_DEVICE void write_four(uint32_t* out, uint32_t i, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  ptx::stg_v2_u32(out + 4 * i, x, y);
  ptx::stg_v2_u32(out + 4 * i + 2, z, w);
}

PTX_DEVICE void write_descriptors(uint32_t* out, uint32_t i, uint64_t base, uint32_t step_bytes) {
  const uint64_t advanced = descriptor_advance(base, step_bytes * (i % 4));
  write_four(out, i, static_cast<uint32_t>(base), static_cast<uint32_t>(base >> 32), static_cast<uint32_t>(advanced),
             static_cast<uint32_t>(advanced >> 32));
}

template <int Stages>
PTX_DEVICE void write_ring(uint32_t* out, uint32_t i, uint32_t count) {
  Ring<Stages> ring;
  for (uint32_t step = 0; step < i; ++step) ring.advance();
  ptx::stg_v2_u32(out + 2 * ((Stages - 1) * count + i), ring.stage, ring.phase);
  if constexpr (Stages > 1) write_ring<Stages - 1>(out, i, count);
}

PTX_DEVICE void write_tiles(const ProbeParams& params) {
  const uint32_t* in = params.input + 4 * ptx::cta_idx();
  const uint32_t m_tiles = ptx::ld_global_u32(in), n_tiles = ptx::ld_global_u32(in + 1);
  uint32_t* out = params.output + ptx::ld_global_u32(in + 2);
  for (uint32_t i = ptx::thread_idx(); i < m_tiles * n_tiles; i += kProbeLayoutThreads) {
    const TileCoord tile = tile_coord(i, m_tiles, n_tiles);
    ptx::stg_v2_u32(out + 2 * i, tile.m, tile.n);
  }
}

PTX_DEVICE void probe_layout_kernel(const ProbeParams& params) {
  enter_grid();
  const ProbeLayout function = static_cast<ProbeLayout>(params.arguments[0]);
  if (function == ProbeLayout::kTiles) return write_tiles(params);
  const uint32_t count = params.arguments[1];
  uint32_t* out = params.output;
  const uint32_t step = ptx::grid_dim() * kProbeLayoutThreads;
  for (uint32_t i = ptx::cta_idx() * kProbeLayoutThreads + ptx::thread_idx(); i < count; i += step) {
    if (function == ProbeLayout::kSwizzle) {
      write_four(out, i, swizzle<32>(i), swizzle<64>(i), swizzle<128>(i), 0);
    } else if (function == ProbeLayout::kFragment) {
      write_four(out, i, fragment_row(i), fragment_column(i), stmatrix_row(i), stmatrix_column(i));
    } else if (function == ProbeLayout::kDescriptor) {
      write_descriptors(out, i, descriptor_k_major_128b(16 * i), 32);
    } else if (function == ProbeLayout::kMnDescriptor) {
      write_descriptors(out, i, descriptor_mn_major_128b(16 * i, 1024 * (i % 256)), 2048);
    } else {
      write_ring<12>(out, i, count);
    }
  }
}
