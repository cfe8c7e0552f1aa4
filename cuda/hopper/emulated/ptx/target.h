// How a function and a kernel are declared for this machine: the emulated Hopper, compiled as plain C++.
//
// Every function of this folder ends in a defaulted `Where`, the place of the call, which reports name.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hopper/emulated/machine/machine.h"
#include "hopper/emulated/machine/trace.h"
#include "hopper/tensor_map.h"

#define PTX_DEVICE inline

// Defines the kernel `name`, which the table `emu_kernels` lists. Declared before it is defined, because a constant
// would otherwise be local to its file.
#define PTX_KERNEL(name, function, Params, threads, cluster)                                                           \
  extern "C" {                                                                                                         \
  extern const emu::Kernel name;                                                                                       \
  const emu::Kernel name = {#name, [](const void* params) { function(*static_cast<const Params*>(params)); }, threads, \
                            cluster, sizeof(Params)};                                                                  \
  }

namespace ptx {

using emu::Where;

struct U32x4 {
  uint32_t x, y, z, w;
};

struct F32x2 {
  float lo, hi;
};

}  // namespace ptx
