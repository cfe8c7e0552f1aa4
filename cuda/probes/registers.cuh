// Registers move between three warpgroups, twice: an increase waits until others have given back enough.
//
//   output  thread, count after the last change  [384, 2]
#pragma once
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

PTX_DEVICE void probe_registers_kernel(const ProbeParams& params) {
  const uint32_t thread = ptx::thread_idx();
  const uint32_t warpgroup = ptx::warp_uniform(thread / 128);
  uint32_t* out = params.output + 2 * thread;
  // At launch each has 168.
  if (warpgroup == 0) {
    ptx::setmaxnreg_dec<40>();
    ptx::setmaxnreg_inc<120>();
    ptx::stg_v2_u32(out, thread, 120);
  } else if (warpgroup == 1) {
    ptx::setmaxnreg_inc<232>();
    ptx::setmaxnreg_dec<152>();
    ptx::stg_v2_u32(out, thread, 152);
  } else {
    ptx::setmaxnreg_inc<232>();
    ptx::stg_v2_u32(out, thread, 232);
  }
}
