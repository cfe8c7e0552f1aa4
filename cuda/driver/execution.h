// Kernels at the moment of their execution: on the emulated Hopper.
#pragma once
#include "driver/call.h"

namespace driver {

// A launch as the call made it.
struct KernelLaunch {
  Function* function;
  Context* context;
  uint32_t grid, shared_bytes;
  std::vector<uint8_t> parameters;
  std::vector<Allocation*> operands;  // that words of the parameters point into
  std::vector<Allocation*> freed;     // the same, freed before the call: bytes of padding, or operands that are gone
};

Result execute(const KernelLaunch& launch);

}  // namespace driver
