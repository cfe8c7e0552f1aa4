// The experts of every token (gate_choice.cuh).
//
// Schedule: one warp per token, with registers for kExperts of them.
#pragma once
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "ptx/regs.h"
#include "ptx/target.h"
#include "router/gate_choice.cuh"

namespace router {

template <class Config>
PTX_DEVICE void gate_select_kernel(const GateSelectParams& params) {
  static_assert(Config::kThreads == Config::kTokens * 32, "a warp per token");
  enter_grid();
  const uint64_t t = static_cast<uint64_t>(ptx::cta_idx()) * Config::kTokens + ptx::thread_idx() / 32;
  if (t < params.t) route_token<Config::kExperts / 32>(params, t);
}

}  // namespace router
