// The part of the CUDA driver API that this driver offers, in our own words: handles, result codes and enumerations
// with the values that a program compiled against CUDA 12 or 13 passes. The functions stand in the files of their
// topics.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define DRIVER_API extern "C" __attribute__((visibility("default")))

namespace driver {

// Every code that some call here gives, with the value of the driver API's section "Data types used by CUDA driver".
#define DRIVER_RESULTS(X)                        \
  X(CUDA_SUCCESS, 0)                             \
  X(CUDA_ERROR_INVALID_VALUE, 1)                 \
  X(CUDA_ERROR_OUT_OF_MEMORY, 2)                 \
  X(CUDA_ERROR_NOT_INITIALIZED, 3)               \
  X(CUDA_ERROR_DEINITIALIZED, 4)                 \
  X(CUDA_ERROR_NO_DEVICE, 100)                   \
  X(CUDA_ERROR_INVALID_DEVICE, 101)              \
  X(CUDA_ERROR_INVALID_IMAGE, 200)               \
  X(CUDA_ERROR_INVALID_CONTEXT, 201)             \
  X(CUDA_ERROR_NO_BINARY_FOR_GPU, 209)           \
  X(CUDA_ERROR_FILE_NOT_FOUND, 301)              \
  X(CUDA_ERROR_INVALID_HANDLE, 400)              \
  X(CUDA_ERROR_ILLEGAL_STATE, 401)               \
  X(CUDA_ERROR_NOT_FOUND, 500)                   \
  X(CUDA_ERROR_NOT_READY, 600)                   \
  X(CUDA_ERROR_ILLEGAL_ADDRESS, 700)             \
  X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, 701)     \
  X(CUDA_ERROR_LAUNCH_TIMEOUT, 702)              \
  X(CUDA_ERROR_CONTEXT_IS_DESTROYED, 709)        \
  X(CUDA_ERROR_ASSERT, 710)                      \
  X(CUDA_ERROR_HARDWARE_STACK_ERROR, 714)        \
  X(CUDA_ERROR_ILLEGAL_INSTRUCTION, 715)         \
  X(CUDA_ERROR_MISALIGNED_ADDRESS, 716)          \
  X(CUDA_ERROR_INVALID_ADDRESS_SPACE, 717)       \
  X(CUDA_ERROR_INVALID_PC, 718)                  \
  X(CUDA_ERROR_LAUNCH_FAILED, 719)               \
  X(CUDA_ERROR_NOT_PERMITTED, 800)               \
  X(CUDA_ERROR_NOT_SUPPORTED, 801)               \
  X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 900)  \
  X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, 901)  \
  X(CUDA_ERROR_STREAM_CAPTURE_MERGE, 902)        \
  X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, 903)    \
  X(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, 904)     \
  X(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, 905)    \
  X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, 906)     \
  X(CUDA_ERROR_CAPTURED_EVENT, 907)              \
  X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, 908) \
  X(CUDA_ERROR_INVALID_CLUSTER_SIZE, 912)        \
  X(CUDA_ERROR_UNKNOWN, 999)

enum Result : int {
#define DRIVER_RESULT(name, value) name = value,
  DRIVER_RESULTS(DRIVER_RESULT)
#undef DRIVER_RESULT
};

// Handles are addresses of our objects; what a caller passes is looked up before it is followed.
struct Context;
struct Event;
struct Exec;
struct Function;
struct Graph;
struct Module;
struct Stream;

using Device = int;
using DevicePointer = uint64_t;

// Streams that are no objects of the caller's.
inline constexpr uintptr_t kLegacyStream = 1, kPerThreadStream = 2;

// Of a stream; the least is 0.
inline constexpr int kGreatestPriority = -5;

enum StreamFlags : unsigned { kStreamDefault = 0, kStreamNonBlocking = 1 };

enum EventFlags : unsigned { kEventBlockingSync = 1, kEventDisableTiming = 2, kEventInterprocess = 4, kEventAll = 7 };

enum HostFlags : unsigned { kHostPortable = 1, kHostMapped = 2, kHostWriteCombined = 4, kHostAll = 7 };

enum CaptureMode : int { kCaptureGlobal = 0, kCaptureThreadLocal = 1, kCaptureRelaxed = 2 };

enum CaptureStatus : int { kCaptureNone = 0, kCaptureActive = 1, kCaptureInvalidated = 2 };

enum FunctionAttribute : int {
  kMaxThreadsPerBlock = 0,
  kStaticSharedBytes = 1,
  kConstantBytes = 2,
  kLocalBytes = 3,
  kRegisters = 4,
  kPtxVersion = 5,
  kBinaryVersion = 6,
  kCacheModeCa = 7,
  kMaxDynamicSharedBytes = 8,
  kSharedCarveout = 9,
  kClusterSizeMustBeSet = 10,
  kRequiredClusterWidth = 11,
  kRequiredClusterHeight = 12,
  kRequiredClusterDepth = 13,
  kNonPortableClusterSizeAllowed = 14,
};

enum PointerAttribute : int { kPointerContext = 1, kPointerMemoryType = 2, kPointerDevicePointer = 3 };

enum MemoryType : unsigned { kMemoryHost = 1, kMemoryDevice = 2 };

enum TensorMapType : int {
  kTensorU8 = 0,
  kTensorF16 = 6,
  kTensorF32 = 7,
  kTensorBf16 = 9,
  kTensorTypes = 13,
};

enum LaunchAttributeId : int { kIgnored = 0, kProgrammaticStreamSerialization = 6 };

struct LaunchAttribute {
  int id;
  int padding;
  union {
    char bytes[64];
    int allowed;  // of kProgrammaticStreamSerialization
  } value;
};

struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  Stream* stream;
  const LaunchAttribute* attributes;
  unsigned attribute_count;
};

struct Uuid {
  char bytes[16];
};

}  // namespace driver
