// What a cubin says of its kernels: the symbols, sections and attributes of an ELF file that a driver reads.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace driver {

struct KernelParameter {
  uint32_t offset, bytes;
};

struct CubinKernel {
  std::string name;
  uint32_t registers = 0;                          // of a thread
  uint32_t static_shared = 0;                      // bytes of a block, without what the system reserves
  uint32_t local_bytes = 0;                        // of a thread
  uint32_t max_threads = 1024;                     // __launch_bounds__
  uint32_t required_threads[3] = {};               // __block_size__; 0: any
  uint32_t cluster[3] = {};                        // __cluster_dims__; 0: none
  std::map<uint32_t, KernelParameter> parameters;  // by ordinal
};

struct Cubin {
  uint32_t architecture = 0;  // 90
  uint32_t abi = 0;           // 8 since CUDA 13
  std::map<std::string, CubinKernel> kernels;
};

// Empty: read. Otherwise why not.
std::string read_cubin(const void* image, Cubin& cubin);

}  // namespace driver
