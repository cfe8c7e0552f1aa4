// Loads and stores of shared memory by one warp.
//
//   input   offsets of the rows for stmatrix.x4 [32], stmatrix.x2 [32] and ldmatrix.x4 [32]; registers for stmatrix.x4
//           [32, 4] and .x2 [32, 2]; what ldmatrix reads [256]
//   output  scalars of lane 31 - l: u32, f32, two of v2.f32  [32, 4]; shared memory after stmatrix.x4 [256] and .x2
//           [256]; registers of ldmatrix.x4 [32, 4]
#pragma once
#include <bit>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/sync.h"

PTX_DEVICE void probe_scalars(uint32_t* output, uint32_t smem, uint32_t lane) {
  const float x = static_cast<float>(lane);
  ptx::sts_u32(smem + 4 * lane, 0x10000 + lane);
  ptx::sts_f32(smem + 128 + 4 * lane, x + 0.5f);
  ptx::sts_v2_f32(smem + 256 + 8 * lane, x + 0.25f, -x);
  ptx::syncwarp();
  const uint32_t other = 31 - lane;
  ptx::stg_v2_u32(output + 4 * lane, ptx::lds_u32(smem + 4 * other),
                  std::bit_cast<uint32_t>(ptx::lds_f32(smem + 128 + 4 * other)));
  ptx::stg_v2_u32(output + 4 * lane + 2, ptx::lds_u32(smem + 256 + 8 * other), ptx::lds_u32(smem + 260 + 8 * other));
}

PTX_DEVICE void probe_smem_kernel(const ProbeParams& params) {
  constexpr uint32_t kLanes = 32, kRegion = 256;  // words
  enter_grid();
  const uint32_t lane = ptx::thread_idx();
  const uint32_t smem = ptx::smem_base();
  const uint32_t stored4 = smem + 1024, stored2 = smem + 2048, loaded = smem + 3072;
  probe_scalars(params.output, smem, lane);

  fill_shared(stored4, 2 * kRegion, kLanes);
  copy_to_shared(loaded, params.input + 288, kRegion, kLanes);
  ptx::syncwarp();
  uint32_t m[6];
  for (uint32_t i = 0; i < 4; ++i) m[i] = ptx::ld_global_u32(params.input + 96 + 4 * lane + i);
  for (uint32_t i = 0; i < 2; ++i) m[4 + i] = ptx::ld_global_u32(params.input + 224 + 2 * lane + i);
  ptx::stmatrix_x4(stored4 + ptx::ld_global_u32(params.input + lane), m[0], m[1], m[2], m[3]);
  ptx::stmatrix_x2(stored2 + ptx::ld_global_u32(params.input + 32 + lane), m[4], m[5]);
  uint32_t r[4];
  ptx::ldmatrix_x4(r, loaded + ptx::ld_global_u32(params.input + 64 + lane));
  ptx::syncwarp();

  copy_from_shared(params.output + 128, stored4, 2 * kRegion, kLanes);
  uint32_t* registers = params.output + 128 + 2 * kRegion + 4 * lane;
  ptx::stg_v2_u32(registers, r[0], r[1]);
  ptx::stg_v2_u32(registers + 2, r[2], r[3]);
}
