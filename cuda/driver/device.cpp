// The driver as a whole, and its one device: an H100 SXM, as far as attributes go.
#include <cstdio>
#include <cstring>

#include "driver/memory.h"
#include "driver/module.h"
#include "driver/options.h"

namespace driver {
namespace {

struct Attribute {
  int id, value;
};

// By CUdevice_attribute; values of an H100 SXM as published (programming guide, "compute capabilities"; data sheet).
constexpr Attribute kAttributes[] = {
    {1, 1024},                    // threads of a block
    {2, 1024},                    // block, x
    {3, 1024},                    // y
    {4, 64},                      // z
    {5, 2147483647},              // grid, x
    {6, 65535},                   // y
    {7, 65535},                   // z
    {8, 48 * 1024},               // shared memory of a block without opt-in
    {9, 64 * 1024},               // constant memory
    {10, 32},                     // threads of a warp
    {11, 2147483647},             // pitch of a copy
    {12, 65536},                  // registers of a block
    {13, 1980000},                // clock, kHz
    {18, 0},                      // integrated
    {19, 1},                      // maps host memory
    {20, 0},                      // compute mode: default
    {31, 1},                      // concurrent kernels
    {32, 1},                      // ECC
    {33, 0},                      // PCI bus
    {34, 0},                      // PCI device
    {36, 2619000},                // memory clock, kHz
    {37, 5120},                   // bits of the memory bus
    {38, 50 << 20},               // bytes of L2
    {39, 2048},                   // threads of a multiprocessor
    {40, 3},                      // copy engines
    {41, 1},                      // unified addresses
    {50, 0},                      // PCI domain
    {78, 1},                      // stream priorities
    {81, 228 * 1024},             // shared memory of a multiprocessor
    {82, 65536},                  // registers of a multiprocessor
    {83, 1},                      // managed memory
    {86, 0},                      // atomics between host and device
    {91, 1},                      // host pointers of registered memory
    {95, 1},                      // cooperative launches
    {97, kMaxSharedOptIn},        // shared memory of a block with opt-in
    {106, 32},                    // blocks of a multiprocessor
    {111, kReservedSharedBytes},  // of a block
    {115, 1},                     // memory pools
    {120, 1},                     // clusters
    {127, 1},                     // tensor maps
};

enum { kMultiprocessors = 16, kMajor = 75, kMinor = 76 };

Result uuid(Call& call, Uuid* id, Device device) {
  if (!call.device(device) || !call.stores_into(id)) return call.result;
  std::memcpy(id->bytes, "fake-hopper-0000", sizeof id->bytes);
  return CUDA_SUCCESS;
}

}  // namespace

DRIVER_API Result cuInit(unsigned flags) {
  Call call("cuInit", false);
  if (call.result != CUDA_SUCCESS) return call.result;
  if (flags != 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags %u, there are none", flags);
  if (!options().wrong.empty()) return call.fail(CUDA_ERROR_INVALID_VALUE, "%s", options().wrong.c_str());
  if (options().devices == 0) return CUDA_ERROR_NO_DEVICE;  // as was asked for: no problem
  state().initialized = true;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDriverGetVersion(int* version) {
  Call call("cuDriverGetVersion", false);
  if (!call.stores_into(version)) return call.result;
  *version = options().version;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDeviceGetCount(int* count) {
  Call call("cuDeviceGetCount");
  if (!call.stores_into(count)) return call.result;
  *count = options().devices;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDeviceGet(Device* device, int ordinal) {
  Call call("cuDeviceGet");
  if (!call.stores_into(device) || !call.device(ordinal)) return call.result;
  *device = ordinal;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDeviceGetName(char* name, int bytes, Device device) {
  Call call("cuDeviceGetName");
  if (!call.device(device) || !call.stores_into(name)) return call.result;
  if (bytes <= 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "%d bytes for the name", bytes);
  std::snprintf(name, static_cast<size_t>(bytes), "fake H100 (emulated Hopper)");
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDeviceGetAttribute(int* value, int attribute, Device device) {
  Call call("cuDeviceGetAttribute");
  if (!call.device(device) || !call.stores_into(value)) return call.result;
  if (attribute == kMultiprocessors)
    *value = options().multiprocessors;
  else if (attribute == kMajor)
    *value = options().compute_capability / 10;
  else if (attribute == kMinor)
    *value = options().compute_capability % 10;
  else {
    for (const Attribute& known : kAttributes) {
      if (known.id != attribute) continue;
      *value = known.value;
      return CUDA_SUCCESS;
    }
    return call.fail(CUDA_ERROR_NOT_SUPPORTED, "attribute %d is not modelled", attribute);
  }
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDeviceTotalMem_v2(size_t* bytes, Device device) {
  Call call("cuDeviceTotalMem_v2");
  if (!call.device(device) || !call.stores_into(bytes)) return call.result;
  *bytes = kTotalMemory;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDeviceGetUuid(Uuid* id, Device device) {
  Call call("cuDeviceGetUuid");
  return uuid(call, id, device);
}

DRIVER_API Result cuDeviceGetUuid_v2(Uuid* id, Device device) {
  Call call("cuDeviceGetUuid_v2");
  return uuid(call, id, device);
}

DRIVER_API Result cuGetErrorName(int code, const char** text) {
  *text = result_name(code);
  return *text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The name stands for the sentence.
DRIVER_API Result cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

}  // namespace driver
