// Where the parts of a GEMM's shared memory lie, as the compiler that builds the kernel sees it. The table
// instantiates `write_storage` for every GEMM.
//
//   output  offsets of a, b, d, sfa, full, empty, then size and alignment, one row per instance  [instances, 8]
#pragma once
#include "gemm/fp8_gemm.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/params.h"

namespace gemm {

template <class Config>
PTX_DEVICE void write_storage(const ProbeParams& params, uint32_t instance) {
  using Storage = Fp8GemmStorage<Config>;
  if (ptx::thread_idx() != 0) return;
  uint32_t* out = params.output + 8 * instance;
  ptx::stg_v2_u32(out, offsetof(Storage, a), offsetof(Storage, b));
  ptx::stg_v2_u32(out + 2, offsetof(Storage, d), offsetof(Storage, sfa));
  ptx::stg_v2_u32(out + 4, offsetof(Storage, pipeline.full), offsetof(Storage, pipeline.empty));
  ptx::stg_v2_u32(out + 6, sizeof(Storage), alignof(Storage));
}

}  // namespace gemm
