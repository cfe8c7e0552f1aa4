// Launches: what the call itself refuses.
#include <algorithm>
#include <cstring>

#include "driver/capture.h"
#include "driver/execution.h"
#include "driver/memory.h"
#include "driver/module.h"
#include "driver/options.h"
#include "driver/queue.h"
#include "hopper/emulated/machine/emu.h"

namespace driver {
namespace {

struct Extent {
  unsigned x, y, z;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

// Limits of the device and of the kernel: cuLaunchKernel, cuFuncSetAttribute, programming guide "compute capabilities".
Result check_size(Call& call, const Function& function, Extent grid, Extent block, unsigned shared_bytes) {
  const CubinKernel& kernel = function.kernel;
  const char* name = kernel.name.c_str();
  if (grid.count() == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%s: grid %u x %u x %u", name, grid.x, grid.y, grid.z);
  }
  if (block.count() == 0 || block.x > 1024 || block.y > 1024 || block.z > 64 || block.count() > 1024) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%s: block %u x %u x %u", name, block.x, block.y, block.z);
  }
  const auto threads = static_cast<uint32_t>(block.count());
  if (threads > kernel.max_threads) {
    return call.fail(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "%s: %u threads, launch bounds %u", name, threads,
                     kernel.max_threads);
  }
  if (block_registers(kernel, threads) > kRegistersOfMultiprocessor) {
    return call.fail(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "%s: %u registers of %u threads", name, kernel.registers,
                     threads);
  }
  const uint32_t* required = kernel.required_threads;
  if (required[0] != 0 && (block.x != required[0] || block.y != required[1] || block.z != required[2])) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%s: block %u x %u x %u, %u x %u x %u is required", name, block.x,
                     block.y, block.z, required[0], required[1], required[2]);
  }
  if (shared_bytes > static_cast<unsigned>(function.max_dynamic_shared)) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of dynamic shared memory, %d were asked for", name,
                     shared_bytes, function.max_dynamic_shared);
  }
  const auto odd = [](unsigned size, uint32_t cluster) { return size % std::max(1u, cluster) != 0; };
  if (odd(grid.x, kernel.cluster[0]) || odd(grid.y, kernel.cluster[1]) || odd(grid.z, kernel.cluster[2])) {
    return call.fail(CUDA_ERROR_INVALID_CLUSTER_SIZE, "%s: grid %u x %u x %u in clusters of %u x %u x %u", name, grid.x,
                     grid.y, grid.z, kernel.cluster[0], kernel.cluster[1], kernel.cluster[2]);
  }
  return CUDA_SUCCESS;
}

// Copies the one parameter, which the emulator wants as the cubin does; and what only this driver knows: for how many
// threads the kernel is written. False: failed, or not ours.
bool take_parameters(Call& call, const CubinKernel& kernel, Extent grid, uint32_t threads, void** given,
                     std::vector<uint8_t>& taken) {
  const char* name = kernel.name.c_str();
  EmuKernelInfo info;
  if (emu_kernel_info(name, &info) == 0) {
    call.fail(CUDA_ERROR_NOT_SUPPORTED, "%s: the emulator has no such kernel", name);
    return false;
  }
  if (kernel.parameters.size() != 1 || grid.y != 1 || grid.z != 1) {
    call.fail(CUDA_ERROR_NOT_SUPPORTED,
              "%s: %zu parameters, grid %u x %u x %u: only one parameter and one dimension are modelled", name,
              kernel.parameters.size(), grid.x, grid.y, grid.z);
    return false;
  }
  if (given == nullptr || given[0] == nullptr) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "%s: the parameter is null", name);
    return false;
  }
  if (threads != info.threads) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "%s: launched with %u threads, written for %u (a real driver takes it)", name,
              threads, info.threads);
    return false;
  }
  const size_t bytes = kernel.parameters.begin()->second.bytes + (planted(Fault::kParamSize) ? 8 : 0);
  if (bytes != info.params_bytes) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "%s: %zu bytes of parameters, written for %llu", name, bytes,
              printable(info.params_bytes));
    return false;
  }
  const auto* data = static_cast<const uint8_t*>(given[0]);
  taken.assign(data, data + bytes);
  return true;
}

// The allocations that 8-byte words of the parameters point into, and the bytes that they point at.
void find_operands(KernelLaunch& launch, Operation& operation) {
  for (size_t at = 0; at + 8 <= launch.parameters.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, &launch.parameters[at], sizeof word);
    Allocation* allocation = find_allocation(word);
    if (allocation != nullptr && planted(Fault::kStrayPointer)) {
      word = allocation->base + allocation->bytes + 8;
      allocation = find_allocation(word);
    }
    if (allocation == nullptr) {
      if (gives_out(word)) {
        note(this_thread(), "stray-pointer", "%s: its parameters point to 0x%llx at byte %zu, which is in no allocation",
             operation.what.c_str(), printable(word), at);
      }
      continue;
    }
    auto& found = allocation->freed() ? launch.freed : launch.operands;
    if (std::find(found.begin(), found.end(), allocation) == found.end()) found.push_back(allocation);
    // Freed at the call: padding of the struct, or an operand that is gone; the emulator sees which.
    if (!allocation->freed()) operation.accesses.push_back({allocation, word, word + 1, false});
  }
}

// Faults that change what was asked for.
void plant(Extent& grid, Extent& block, unsigned& shared_bytes, Stream*& stream) {
  if (planted(Fault::kNoDynamicSmem)) shared_bytes = 0;
  if (planted(Fault::kHalfTheThreads)) block.x /= 2;
  if (planted(Fault::kOddGrid)) ++grid.x;
  if (planted(Fault::kNullStream)) stream = nullptr;
}

// False: failed, or not modelled.
bool take_attributes(Call& call, const LaunchConfig& config, bool& may_overlap) {
  if (config.attribute_count > 0 && config.attributes == nullptr) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "%u attributes at null", config.attribute_count);
    return false;
  }
  for (unsigned i = 0; i < config.attribute_count; ++i) {
    const LaunchAttribute& attribute = config.attributes[i];
    if (attribute.id == kProgrammaticStreamSerialization) {
      may_overlap = attribute.value.allowed != 0;
    } else if (attribute.id != kIgnored) {
      call.fail(CUDA_ERROR_NOT_SUPPORTED, "launch attribute %d is not modelled", attribute.id);
      return false;
    }
  }
  return true;
}

Result launch(Call& call, Function* handle, Extent grid, Extent block, unsigned shared_bytes, Stream* stream_handle,
              void** parameters, void** extra, bool may_overlap = false) {
  plant(grid, block, shared_bytes, stream_handle);
  const Context* current = call.current();
  if (current == nullptr) return call.result;
  Function* function = call.function(handle);
  if (function == nullptr) return call.result;
  Stream* stream = call.stream(stream_handle);
  if (stream == nullptr) return call.result;
  const char* name = function->kernel.name.c_str();
  if (function->context != stream->context) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE, "%s and stream %llu are of different contexts", name,
                     printable(stream->id));
  }
  if (function->context != current) {
    return call.fail(CUDA_ERROR_INVALID_CONTEXT, "%s is of a context that is not current", name);
  }
  if (const Result result = check_size(call, *function, grid, block, shared_bytes); result != CUDA_SUCCESS)
    return result;
  if (extra != nullptr) return call.fail(CUDA_ERROR_NOT_SUPPORTED, "%s: extra is not modelled", name);
  auto made = std::make_shared<KernelLaunch>(KernelLaunch{function, stream->context, grid.x, shared_bytes, {}, {}, {}});
  const auto threads = static_cast<uint32_t>(block.count());
  if (!take_parameters(call, function->kernel, grid, threads, parameters, made->parameters)) return call.result;
  if (stream->capture != nullptr && planted(Fault::kCaptureWaitOutside)) {
    invalidate(*stream->capture, "it was made to wait for an event outside");
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                     "captured stream %llu cannot wait for an event recorded outside", printable(stream->id));
  }
  Operation operation;
  operation.what = name;
  operation.functions.push_back(function);
  operation.may_overlap = may_overlap;
  find_operands(*made, operation);
  operation.run = [made] { return execute(*made); };
  const Result result = enqueue(call, stream, std::move(operation));
  if (planted(Fault::kModuleUnloadedEarly)) unload(*function->module);
  return result;
}

}  // namespace

DRIVER_API Result cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                 unsigned bz, unsigned shared_bytes, Stream* stream, void** parameters, void** extra) {
  Call call("cuLaunchKernel");
  return launch(call, function, {gx, gy, gz}, {bx, by, bz}, shared_bytes, stream, parameters, extra);
}

DRIVER_API Result cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** parameters, void** extra) {
  Call call("cuLaunchKernelEx");
  if (config == nullptr) return call.fail(CUDA_ERROR_INVALID_VALUE, "the configuration is null");
  bool may_overlap = false;
  if (!take_attributes(call, *config, may_overlap)) return call.result;
  const auto extent = [](const unsigned size[3]) { return Extent{size[0], size[1], size[2]}; };
  return launch(call, function, extent(config->grid), extent(config->block), config->shared_bytes, config->stream,
                parameters, extra, may_overlap);
}

}  // namespace driver
