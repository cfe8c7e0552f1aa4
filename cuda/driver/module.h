// Limits of shared memory and registers on Hopper (programming guide, "compute capabilities"), and what a kernel needs.
#pragma once
#include <cstdint>

#include "driver/state.h"

namespace driver {

inline constexpr int kSharedWithoutOptIn = 48 * 1024;
inline constexpr int kReservedSharedBytes = 1024;
inline constexpr int kMaxSharedOptIn = 227 * 1024;
inline constexpr uint32_t kRegistersOfMultiprocessor = 65536;

// Registers of a block: a warp takes them in units of 256.
inline uint32_t block_registers(const CubinKernel& kernel, uint32_t threads) {
  return (threads + 31) / 32 * ((kernel.registers * 32 + 255) / 256 * 256);
}

// Takes the functions away; notes those that are queued. A graph with one of them is refused when it is launched.
void unload(Module& module);

}  // namespace driver
