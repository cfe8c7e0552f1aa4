// Reductions over a warp and sums in memory; accesses of one word and of 16 bytes.
//
//   input   words  [grid, 64]
//   output  the sum of all words, on top of what is there, one word unused  [2], then per thread  [grid, 64, 8]:
//           0 sum, least and greatest of the warp's words, own word by stg_u32 · 4 four words of the thread opposite
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "ptx/sync.h"

PTX_DEVICE void probe_reduce_kernel(const ProbeParams& params) {
  constexpr uint32_t kThreads = 64;
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint32_t index = ptx::cta_idx() * kThreads + thread;
  const uint32_t word = ptx::ldg_u32(params.input + index);
  uint32_t* out = params.output + 2 + 8 * index;
  ptx::red_add_u32(params.output, word);
  const uint32_t sum = ptx::reduce_add_u32(word);
  const uint32_t least = ptx::reduce_min_u32(word);
  const uint32_t greatest = ptx::reduce_max_u32(word);
  ptx::stg_v2_u32(out, sum, least);
  ptx::stg_u32(out + 2, greatest);
  ptx::stg_u32(out + 3, word);

  const uint32_t smem = ptx::smem_base();
  ptx::sts_v4_u32(smem + 16 * thread, {word, ~word, thread, word ^ thread});
  ptx::syncthreads();
  const ptx::U32x4 opposite = ptx::lds_v4_u32(smem + 16 * (kThreads - 1 - thread));
  ptx::stg_v2_u32(out + 4, opposite.x, opposite.y);
  ptx::stg_v2_u32(out + 6, opposite.z, opposite.w);
}
