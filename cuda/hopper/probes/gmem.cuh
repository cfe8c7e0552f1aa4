// Loads and stores of global memory.
//
//   input   words  [grid, 64, 8]
//   output  the 1 that every thread stores, one word unused  [2], then per thread  [grid, 64, 12]:
//           0 ldg_v4_u32 of words 0-3 · 4 ldg_f32, ld_global_u32, ld_global_f32 of words 4-6
//           7 ldg_v4_u32_if of words 0-3, exclusive or of the four: odd threads; even ones ask of a null pointer and get 0
//           8 stg_f32 of word 7, and the same read back; the same two again after stg_v2_u32 of both, swapped
#pragma once
#include <bit>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

// Words of FP32, as the functions want them.
PTX_DEVICE const float* floats(const uint32_t* words) {
  return static_cast<const float*>(static_cast<const void*>(words));
}

PTX_DEVICE void probe_gmem_kernel(const ProbeParams& params) {
  enter_grid();
  const uint32_t index = ptx::cta_idx() * 64 + ptx::thread_idx();
  const uint32_t* in = params.input + 8 * index;
  uint32_t* out = params.output + 2 + 12 * index;
  const ptx::U32x4 four = ptx::ldg_v4_u32(in);
  ptx::stg_v2_u32(out, four.x, four.y);
  ptx::stg_v2_u32(out + 2, four.z, four.w);
  ptx::stg_v2_u32(out + 4, std::bit_cast<uint32_t>(ptx::ldg_f32(floats(in + 4))), ptx::ld_global_u32(in + 5));
  const ptx::U32x4 odd = ptx::ldg_v4_u32_if(index % 2 != 0, index % 2 != 0 ? in : nullptr);
  ptx::stg_v2_u32(out + 6, std::bit_cast<uint32_t>(ptx::ld_global_f32(floats(in + 6))), odd.x ^ odd.y ^ odd.z ^ odd.w);

  float* mine = static_cast<float*>(static_cast<void*>(out + 8));
  ptx::stg_f32(mine, ptx::ldg_f32(floats(in + 7)));
  ptx::stg_f32(mine + 1, ptx::ld_global_f32(mine));
  ptx::stg_v2_u32(out + 10, ptx::ld_global_u32(out + 9), ptx::ld_global_u32(out + 8));
  ptx::st_relaxed_sys_u32(params.output, 1);
}
