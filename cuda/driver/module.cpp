// Modules, functions and their attributes.
#include "driver/module.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "driver/options.h"
#include "driver/queue.h"
#include "hopper/emulated/machine/emu.h"

namespace driver {
namespace {

// What the cubin and the emulator must say alike, or the two are of different builds.
void compare_with_emulator(const CubinKernel& kernel) {
  EmuKernelInfo info;
  const char* name = kernel.name.c_str();
  if (emu_kernel_info(name, &info) == 0) return;
  const auto compare = [&](const char* what, uint64_t cubin, uint64_t emulator) {
    if (cubin == emulator) return;
    note(this_thread(), "other-build", "%s: %s %llu in the cubin, %llu in the emulator", name, what, printable(cubin),
         printable(emulator));
  };
  compare("parameters:", kernel.parameters.size(), 1);
  if (kernel.parameters.size() == 1)
    compare("bytes of parameters:", kernel.parameters.begin()->second.bytes, info.params_bytes);
  compare("threads:", kernel.max_threads, info.threads);
  const auto extent = [&](int i) { return std::max(1u, kernel.cluster[i]); };
  compare("CTAs of a cluster:", extent(0) * extent(1) * extent(2), info.cluster);
}

bool is_other_image(const void* image) {
  constexpr uint32_t kFatbin = 0xba55ed50;
  uint32_t magic;
  std::memcpy(&magic, image, sizeof magic);
  return magic == kFatbin || std::strncmp(static_cast<const char*>(image), "//", 2) == 0;
}

Result load(Call& call, Module** handle, const void* image) {
  Context* context = call.current();
  if (context == nullptr || !call.stores_into(handle) || call.forbidden_by_capture()) return call.result;
  if (image == nullptr) return call.fail(CUDA_ERROR_INVALID_VALUE, "the image is null");
  if (is_other_image(image)) return call.fail(CUDA_ERROR_NOT_SUPPORTED, "PTX and fat binaries are not modelled");
  Cubin cubin;
  const std::string why = read_cubin(image, cubin);
  if (!why.empty()) return call.fail(CUDA_ERROR_INVALID_IMAGE, "%s", why.c_str());
  constexpr uint32_t kAbiOfCuda13 = 8;
  if (cubin.abi >= kAbiOfCuda13 && options().version < 13000) {
    return call.fail(CUDA_ERROR_INVALID_IMAGE, "a cubin of CUDA 13 or later, and a driver of version %d",
                     options().version);
  }
  if (static_cast<int>(cubin.architecture) != options().compute_capability) {
    return call.fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "for sm_%u, the device is sm_%d", cubin.architecture,
                     options().compute_capability);
  }
  auto* module = create<Module>(Kind::kModule, context);
  for (auto& [name, kernel] : cubin.kernels) {
    compare_with_emulator(kernel);
    auto* function = create<Function>(Kind::kFunction, context);
    function->module = module;
    function->kernel = std::move(kernel);
    function->max_dynamic_shared = kSharedWithoutOptIn - static_cast<int>(function->kernel.static_shared);
    module->functions[name] = function;
  }
  *handle = module;
  return CUDA_SUCCESS;
}

bool launches(const Operation& operation, const Module& module) {
  const auto of = [&](const Function* function) { return function->module == &module; };
  return std::any_of(operation.functions.begin(), operation.functions.end(), of);
}

int attribute_of(const Function& function, int attribute, bool& known) {
  const CubinKernel& kernel = function.kernel;
  switch (attribute) {
    case kMaxThreadsPerBlock:
      return static_cast<int>(kernel.max_threads);
    case kStaticSharedBytes:
      return static_cast<int>(kernel.static_shared);
    case kConstantBytes:
      return 0;
    case kLocalBytes:
      return static_cast<int>(kernel.local_bytes);
    case kRegisters:
      return static_cast<int>(kernel.registers);
    case kPtxVersion:
      return 90;
    case kBinaryVersion:
      return 90;
    case kCacheModeCa:
      return 0;
    case kMaxDynamicSharedBytes:
      return function.max_dynamic_shared;
    case kSharedCarveout:
      return function.carveout;
    case kClusterSizeMustBeSet:
      return 0;
    case kRequiredClusterWidth:
      return static_cast<int>(kernel.cluster[0]);
    case kRequiredClusterHeight:
      return static_cast<int>(kernel.cluster[1]);
    case kRequiredClusterDepth:
      return static_cast<int>(kernel.cluster[2]);
    case kNonPortableClusterSizeAllowed:
      return 0;
    default:
      known = false;
      return 0;
  }
}

}  // namespace

void unload(Module& module) {
  for (const Stream* stream : state().streams) {
    for (const Operation& operation : stream->queue) {
      if (!launches(operation, module)) continue;
      note(this_thread(), "unload-in-use", "%s is unloaded while queued on stream %llu", operation.what.c_str(),
           printable(stream->id));
    }
  }
  for (const auto& [name, function] : module.functions) function->alive = false;
  module.alive = false;
}

DRIVER_API Result cuModuleLoadData(Module** handle, const void* image) {
  Call call("cuModuleLoadData");
  return load(call, handle, image);
}

DRIVER_API Result cuModuleLoadDataEx(Module** handle, const void* image, unsigned, int*, void**) {
  Call call("cuModuleLoadDataEx");
  return load(call, handle, image);
}

DRIVER_API Result cuModuleLoad(Module** handle, const char* path) {
  Call call("cuModuleLoad");
  if (call.current() == nullptr) return call.result;
  FILE* file = path != nullptr ? std::fopen(path, "rb") : nullptr;
  if (file == nullptr) return call.fail(CUDA_ERROR_FILE_NOT_FOUND, "%s", path != nullptr ? path : "null");
  std::vector<uint8_t> image;
  uint8_t piece[65536];
  for (size_t bytes; (bytes = std::fread(piece, 1, sizeof piece, file)) > 0;)
    image.insert(image.end(), piece, piece + bytes);
  std::fclose(file);
  if (image.size() < 64) return call.fail(CUDA_ERROR_INVALID_IMAGE, "%s has %zu bytes", path, image.size());
  return load(call, handle, image.data());
}

DRIVER_API Result cuModuleUnload(Module* handle) {
  Call call("cuModuleUnload");
  const Context* context = call.current();
  if (context == nullptr || call.forbidden_by_capture()) return call.result;
  Module* module = call.module(handle);
  if (module == nullptr) return call.result;
  if (module->context != context) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "the module is of another context");
  unload(*module);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuModuleGetFunction(Function** function, Module* handle, const char* name) {
  Call call("cuModuleGetFunction");
  if (call.current() == nullptr) return call.result;
  const Module* module = call.module(handle);
  if (module == nullptr || !call.stores_into(function)) return call.result;
  if (name == nullptr) return call.fail(CUDA_ERROR_INVALID_VALUE, "the name is null");
  const auto found = module->functions.find(name);
  if (found == module->functions.end()) return call.fail(CUDA_ERROR_NOT_FOUND, "no kernel %s", name);
  *function = found->second;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuModuleGetGlobal_v2(DevicePointer*, size_t*, Module* handle, const char* name) {
  Call call("cuModuleGetGlobal_v2");
  if (call.current() == nullptr || call.module(handle) == nullptr) return call.result;
  return call.fail(CUDA_ERROR_NOT_FOUND, "no variable %s: kernels here have none", name != nullptr ? name : "(null)");
}

DRIVER_API Result cuFuncGetAttribute(int* value, int attribute, Function* handle) {
  Call call("cuFuncGetAttribute");
  if (call.current() == nullptr) return call.result;
  const Function* function = call.function(handle);
  if (function == nullptr || !call.stores_into(value)) return call.result;
  bool known = true;
  const int found = attribute_of(*function, attribute, known);
  if (!known) return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no attribute %d", attribute);
  *value = found;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuFuncSetAttribute(Function* handle, int attribute, int value) {
  Call call("cuFuncSetAttribute");
  if (call.current() == nullptr) return call.result;
  Function* function = call.function(handle);
  if (function == nullptr) return call.result;
  if (attribute == kSharedCarveout) {
    if (value < -1 || value > 100) return call.fail(CUDA_ERROR_INVALID_VALUE, "a carveout of %d percent", value);
    function->carveout = value;
    return CUDA_SUCCESS;
  }
  if (attribute != kMaxDynamicSharedBytes)
    return call.fail(CUDA_ERROR_INVALID_VALUE, "attribute %d cannot be set", attribute);
  if (planted(Fault::kNoSmemOptIn)) return CUDA_SUCCESS;
  if (planted(Fault::kSmemOptInTooLarge)) value += 1024;
  const int fixed = static_cast<int>(function->kernel.static_shared);
  if (value < 0 || value > kMaxSharedOptIn - fixed) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%s: %d dynamic and %d static bytes of shared memory, there are %d",
                     function->kernel.name.c_str(), value, fixed, kMaxSharedOptIn);
  }
  function->max_dynamic_shared = value;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuFuncGetParamInfo(Function* handle, size_t index, size_t* offset, size_t* bytes) {
  Call call("cuFuncGetParamInfo");
  const Function* function = call.function(handle);
  if (function == nullptr || !call.stores_into(offset)) return call.result;
  const auto found = function->kernel.parameters.find(static_cast<uint32_t>(index));
  // Callers count parameters by asking until this answer comes: no problem of theirs.
  if (found == function->kernel.parameters.end()) return CUDA_ERROR_INVALID_VALUE;
  *offset = found->second.offset;
  if (bytes != nullptr) *bytes = found->second.bytes + (planted(Fault::kParamSize) ? 8 : 0);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuFuncLoad(Function* handle) {
  Call call("cuFuncLoad");
  call.function(handle);
  return call.result;
}

DRIVER_API Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* handle, int threads,
                                                              size_t dynamic) {
  Call call("cuOccupancyMaxActiveBlocksPerMultiprocessor");
  if (call.current() == nullptr) return call.result;
  const Function* function = call.function(handle);
  if (function == nullptr || !call.stores_into(blocks)) return call.result;
  if (threads <= 0 || threads > 1024) return call.fail(CUDA_ERROR_INVALID_VALUE, "%d threads", threads);
  const CubinKernel& kernel = function->kernel;
  const auto size = static_cast<uint32_t>(threads);
  const uint64_t shared = kernel.static_shared + dynamic + kReservedSharedBytes;
  const uint64_t by_registers = kRegistersOfMultiprocessor / std::max(1u, block_registers(kernel, size));
  *blocks = static_cast<int>(std::min<uint64_t>({32, 64 / ((size + 31) / 32), by_registers, 228 * 1024 / shared}));
  return CUDA_SUCCESS;
}

}  // namespace driver
