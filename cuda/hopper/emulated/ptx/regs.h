// Special registers and register files.
#pragma once
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE uint32_t thread_idx() { return emu::thread_idx(); }
PTX_DEVICE uint32_t cta_idx() { return emu::cta_idx(); }
PTX_DEVICE uint32_t grid_dim() { return emu::grid_dim(); }
PTX_DEVICE uint32_t cluster_rank() { return emu::cluster_rank(); }

PTX_DEVICE uint32_t warp_uniform(uint32_t value, Where where = Where::here()) {
  return emu::shuffle(value, 0, "warp_uniform", where);
}

PTX_DEVICE uint32_t copy_register(uint32_t value) { return value; }

template <int Count>
PTX_DEVICE void setmaxnreg_dec(Where where = Where::here()) {
  if (emu::traced("setmaxnreg_dec", Count)) return;
  emu::set_registers(Count, false, where);
}

template <int Count>
PTX_DEVICE void setmaxnreg_inc(Where where = Where::here()) {
  if (emu::traced("setmaxnreg_inc", Count)) return;
  emu::set_registers(Count, true, where);
}

}  // namespace ptx
