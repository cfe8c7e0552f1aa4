// One of several launches in a row, which may overlap: it hands words from one half of the output on to the other, the
// word of a thread to the thread opposite, and takes its time.
//
//   arguments  rounds that a thread idles; the last: number of the launch
//   output     what even launches read, and odd ones write; the other way round  [2, grid * 64]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

PTX_DEVICE void probe_grids_kernel(const ProbeParams& params) {
  enter_grid();
  const uint32_t words = ptx::grid_dim() * 64;
  const uint32_t index = ptx::cta_idx() * 64 + ptx::thread_idx();
  const uint32_t odd = params.arguments[7] % 2;
  const uint32_t word = ptx::ld_global_u32(params.output + odd * words + (words - 1 - index));
  float idled = 0.0f;
#pragma unroll 1
  for (uint32_t round = 0; round < params.arguments[0]; ++round) idled = ptx::fma_rn(idled, 0.5f, 1.0f);
  ptx::stg_u32(params.output + (1 - odd) * words + index, word + (idled < 3.0f ? 1 : 2));
}
