// Registers move between three warpgroups, twice: an increase waits until others have given back enough.
//
//   output  thread, count after the last change  [384, 2]
#pragma once
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"

PTX_DEVICE void probe_registers_kernel(const ProbeParams& params) {
  enter_grid();
  const uint32_t thread = ptx::thread_idx();
  const uint32_t warpgroup = ptx::warp_uniform(thread / 128);
  // At launch each has 168: 3 * 168 = 40 + 2 * 232.
  if (warpgroup == 0) {
    ptx::setmaxnreg_dec<40>();
  } else {
    ptx::setmaxnreg_inc<232>();
  }
  // Or the first warpgroup could take back what the others wait for.
  ptx::syncthreads();
  uint32_t count = 232;
  if (warpgroup == 0) {
    ptx::setmaxnreg_inc<120>();
    count = 120;
  } else if (warpgroup == 1) {
    ptx::setmaxnreg_dec<152>();
    count = 152;
  }
  ptx::stg_v2_u32(params.output + 2 * thread, thread, count);
}
