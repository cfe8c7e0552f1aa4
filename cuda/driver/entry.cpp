// How callers find functions, and those that are not modelled.
#include <dlfcn.h>

#include "driver/call.h"

namespace driver {
namespace {

Result unsupported(const char* name) {
  Call call(name, false);
  return call.fail(CUDA_ERROR_NOT_SUPPORTED, "this driver does not model the function");
}

// This library, wherever it was loaded from.
void* own_library() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&unsupported), &info) == 0) return nullptr;
  return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

}  // namespace

// Arguments are not looked at: the caller cleans up.
#define DRIVER_UNSUPPORTED(name) \
  DRIVER_API Result name() { return unsupported(#name); }

DRIVER_UNSUPPORTED(cuCtxGetCacheConfig)
DRIVER_UNSUPPORTED(cuCtxGetLimit)
DRIVER_UNSUPPORTED(cuDestroyExternalMemory)
DRIVER_UNSUPPORTED(cuDeviceGetDefaultMemPool)
DRIVER_UNSUPPORTED(cuDeviceGetMemPool)
DRIVER_UNSUPPORTED(cuDeviceSetMemPool)
DRIVER_UNSUPPORTED(cuExternalMemoryGetMappedBuffer)
DRIVER_UNSUPPORTED(cuFuncSetCacheConfig)
DRIVER_UNSUPPORTED(cuGraphInstantiateWithParams)
DRIVER_UNSUPPORTED(cuImportExternalMemory)
DRIVER_UNSUPPORTED(cuIpcCloseMemHandle)
DRIVER_UNSUPPORTED(cuIpcGetMemHandle)
DRIVER_UNSUPPORTED(cuIpcOpenMemHandle_v2)
DRIVER_UNSUPPORTED(cuLaunchCooperativeKernel)
DRIVER_UNSUPPORTED(cuLibraryLoadData)
DRIVER_UNSUPPORTED(cuMemAdvise_v2)
DRIVER_UNSUPPORTED(cuMemAddressReserve)
DRIVER_UNSUPPORTED(cuMemAllocFromPoolAsync)
DRIVER_UNSUPPORTED(cuMemAllocManaged)
DRIVER_UNSUPPORTED(cuMemAllocPitch_v2)
DRIVER_UNSUPPORTED(cuMemCreate)
DRIVER_UNSUPPORTED(cuMemHostRegister_v2)
DRIVER_UNSUPPORTED(cuMemHostUnregister)
DRIVER_UNSUPPORTED(cuMemMap)
DRIVER_UNSUPPORTED(cuMemPoolCreate)
DRIVER_UNSUPPORTED(cuMemPoolDestroy)
DRIVER_UNSUPPORTED(cuMemPoolGetAttribute)
DRIVER_UNSUPPORTED(cuMemPoolSetAttribute)
DRIVER_UNSUPPORTED(cuMemPoolTrimTo)
DRIVER_UNSUPPORTED(cuMemPrefetchAsync_v2)
DRIVER_UNSUPPORTED(cuMemcpy2DAsync_v2)
DRIVER_UNSUPPORTED(cuMemcpyPeerAsync)
DRIVER_UNSUPPORTED(cuOccupancyAvailableDynamicSMemPerBlock)
DRIVER_UNSUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)
DRIVER_UNSUPPORTED(cuOccupancyMaxActiveClusters)
DRIVER_UNSUPPORTED(cuOccupancyMaxPotentialBlockSize)
DRIVER_UNSUPPORTED(cuOccupancyMaxPotentialBlockSizeWithFlags)
DRIVER_UNSUPPORTED(cuOccupancyMaxPotentialClusterSize)
DRIVER_UNSUPPORTED(cuProfilerStart)
DRIVER_UNSUPPORTED(cuProfilerStop)
DRIVER_UNSUPPORTED(cuStreamAttachMemAsync)
#undef DRIVER_UNSUPPORTED

// By the name of the header, as the runtime library asks: the newest of ours.
DRIVER_API Result cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
  Call call("cuGetProcAddress_v2", false);
  if (symbol == nullptr) return call.fail(CUDA_ERROR_INVALID_VALUE, "the name is null");
  if (!call.stores_into(function)) return call.result;
  *function = nullptr;
  void* library = own_library();
  for (const char* version : {"_v4", "_v3", "_v2", ""}) {
    if (*function == nullptr && library != nullptr) *function = dlsym(library, (std::string(symbol) + version).c_str());
  }
  if (status != nullptr) *status = *function != nullptr ? 0 : 1;  // found, or not
  return *function != nullptr ? CUDA_SUCCESS : call.fail(CUDA_ERROR_NOT_FOUND, "this driver has no %s", symbol);
}

}  // namespace driver
