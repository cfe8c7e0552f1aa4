// Words between global and shared memory, by all threads of a CTA.
#pragma once
#include <cstdint>

#include "hopper/probes/params.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/target.h"

// What shared memory holds before a probe writes to it.
constexpr uint32_t kUntouched = 0xa5a5a5a5u;

PTX_DEVICE void fill_shared(uint32_t smem, uint32_t words, uint32_t threads) {
  for (uint32_t i = ptx::thread_idx(); i < words; i += threads) ptx::sts_u32(smem + 4 * i, kUntouched);
}

PTX_DEVICE void copy_to_shared(uint32_t smem, const uint32_t* global, uint32_t words, uint32_t threads) {
  for (uint32_t i = ptx::thread_idx(); i < words; i += threads) {
    ptx::sts_u32(smem + 4 * i, ptx::ld_global_u32(global + i));
  }
}

// `words` is even.
PTX_DEVICE void copy_from_shared(uint32_t* global, uint32_t smem, uint32_t words, uint32_t threads) {
  for (uint32_t i = 2 * ptx::thread_idx(); i < words; i += 2 * threads) {
    ptx::stg_v2_u32(global + i, ptx::lds_u32(smem + 4 * i), ptx::lds_u32(smem + 4 * i + 4));
  }
}
