// How a function and a kernel are declared for this machine: Hopper, compiled by nvcc for sm_90a.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hopper/tensor_map.h"

namespace ptx {

// What one 16-byte access moves.
struct U32x4 {
  uint32_t x, y, z, w;
};

// Two values that one instruction converts.
struct F32x2 {
  float lo, hi;
};

}  // namespace ptx

// A function that runs on the device. Everything is inlined into its kernel.
#define PTX_DEVICE __device__ __forceinline__

// Only a kernel whose CTAs wait for each other is launched as a cluster.
#define PTX_CLUSTER_1
#define PTX_CLUSTER_2 __cluster_dims__(2, 1, 1)
#define PTX_CLUSTER_8 __cluster_dims__(8, 1, 1)

// Defines the kernel `name` that runs `function(params)` on `threads` threads per CTA in clusters of `cluster` CTAs.
// The 1 in the launch bounds lets ptxas know the register count at entry; without it setmaxnreg is ignored (C7508).
#define PTX_KERNEL(name, function, Params, threads, cluster)                           \
  extern "C" __global__ void __launch_bounds__(threads, 1)                             \
      PTX_CLUSTER_##cluster name(const __grid_constant__ Params params) {              \
    function(params);                                                                  \
  }
