// How many tokens go to each expert: what balancing looks at.
//
//   counts[e] += the number of ids that are e
//
//   ids indices [t, routes] · counts uint32 [experts]
//
// Schedule: one thread per id. Sums of integers do not depend on their order, so atomics leave the result determined.
#pragma once
#include <cstdint>

#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/report_fault.cuh"
#include "indices.cuh"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "router/params.h"

namespace router {

template <class Config>
PTX_DEVICE void expert_load_kernel(const ExpertLoadParams& params) {
  enter_grid();
  const uint64_t index = static_cast<uint64_t>(ptx::cta_idx()) * Config::kThreads + ptx::thread_idx();
  if (index >= static_cast<uint64_t>(params.t) * params.routes) return;
  const uint32_t id = static_cast<uint32_t>(load_index(params.ids, index / params.routes, index % params.routes));
  if (id < params.experts) {
    ptx::red_add_u32(params.counts + id, 1);
  } else if (id != UINT32_MAX) {
    report_fault(params.error_words, FAULT_EXPERT_ID);
  }
}

}  // namespace router
