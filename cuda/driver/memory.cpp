#include "driver/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "driver/capture.h"
#include "driver/options.h"
#include "driver/queue.h"

namespace driver {
namespace {

constexpr uint64_t kPage = 4096;
// "Any address ... is always aligned to at least 256 bytes" (programming guide, device memory accesses): no more than
// that.
constexpr uint64_t kOffset = 256;
// NaN in every format of ours. Larger allocations have them at both ends.
constexpr uint64_t kFilled = 32 << 20;

// Where memory is given out, in ascending order: the same addresses in every process, so that a run replays. In every
// 4 GiB the lowest 1 GiB is left out, so that two counts of 32 bits, read as 64, are no address.
constexpr uint64_t kWindow = uint64_t{1} << 32, kLeftOut = uint64_t{1} << 30;
constexpr uint64_t kFirst = (uint64_t{0x2a5a} << 32) + kLeftOut;
uint64_t next_address = kFirst;

uint64_t next_window(uint64_t address) { return (address / kWindow + 1) * kWindow + kLeftOut; }

// Null when there is none, or when others of the process have all that was tried.
uint8_t* take_addresses(uint64_t bytes) {
  constexpr int kTries = 1024;
  for (int i = 0; i < kTries; ++i) {
    if (next_address % kWindow + bytes > kWindow && bytes <= kWindow - kLeftOut) next_address = next_window(next_address);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void* const wanted = reinterpret_cast<void*>(next_address);
    void* const mapping = mmap(wanted, bytes, PROT_NONE, flags, -1, 0);
    if (mapping == wanted) {
      next_address += bytes;
      if (next_address % kWindow < kLeftOut) next_address = next_window(next_address - kWindow);
      return static_cast<uint8_t*>(mapping);
    }
    if (mapping != MAP_FAILED) munmap(mapping, bytes);
    next_address = next_window(next_address);
  }
  return nullptr;
}

void fill(uint8_t* memory, uint64_t bytes) {
  std::memset(memory, 0xff, std::min(bytes, kFilled));
  if (bytes > kFilled) std::memset(memory + bytes - kPage, 0xff, kPage);
}

Allocation* freeable(Call& call, uint64_t pointer) {
  Allocation* allocation = find_allocation(pointer);
  if (allocation == nullptr || allocation->base != pointer || allocation->origin == Allocation::kHost) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "0x%llx is no allocation", printable(pointer));
    return nullptr;
  }
  if (allocation->freed()) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "allocation %llu was freed by %s", printable(allocation->id),
              allocation->freed_by.c_str());
    return nullptr;
  }
  return allocation;
}

// Queued work that a call which need not wait takes the memory from.
void note_users(const Call& call, const char* name, const Allocation& allocation) {
  for (const Stream* stream : state().streams) {
    for (const Operation& operation : stream->queue) {
      const auto uses = [&](const Access& access) { return access.allocation == &allocation; };
      if (std::none_of(operation.accesses.begin(), operation.accesses.end(), uses)) continue;
      note(this_thread(), name, "%s: allocation %llu (%llu bytes) is still used by %s on stream %llu", call.name,
           printable(allocation.id), printable(allocation.bytes), operation.what.c_str(), printable(stream->id));
    }
  }
}

// Where the memory of a context's allocations belongs; the fault gives it to another one.
Context* owner(Context* context) {
  if (!planted(Fault::kForeignContext)) return context;
  if (state().foreign == nullptr) state().foreign = create<Context>(Kind::kContext, nullptr);
  return state().foreign;
}

// Stream-ordered memory becomes a node of the stream's own capture; next to a capture of another stream an H100 (driver
// 580.159) refuses it as it does cuMemAlloc and cuMemFree.
bool beside_capture(Call& call, const Stream* stream) {
  return stream->capture == nullptr && call.forbidden_by_capture();
}

Result allocate_on(Call& call, DevicePointer* pointer, size_t bytes, Stream* stream) {
  Allocation* allocation = allocate(bytes, Allocation::kPool, owner(stream->context));
  if (allocation == nullptr) return call.fail(CUDA_ERROR_OUT_OF_MEMORY, "%zu bytes", bytes);
  allocation->live = false;
  allocation->graph_owned = stream->capture != nullptr;
  Operation operation;
  operation.what = "the allocation of " + std::to_string(bytes) + " bytes";
  operation.run = [allocation] {
    // Freed already, in the order of calls, is as it should be, unless the free did not wait for its turn.
    allocation->live = !planted(Fault::kEarlyFree) || !allocation->freed();
    const auto [own, on] = executing();
    check_order(*own, *on, on->executed + 1,
                {allocation, allocation->base, allocation->base + allocation->bytes, true});
    return CUDA_SUCCESS;
  };
  if (const Result result = enqueue(call, stream, std::move(operation)); result != CUDA_SUCCESS) {
    allocation->freed_by = "the call that failed to allocate it";
    release(*allocation);
    return result;
  }
  *pointer = allocation->base;
  return CUDA_SUCCESS;
}

void free_now(Allocation& allocation, const char* call) {
  allocation.freed_by = call;
  if (allocation.live) release(allocation);
}

Result free_on(Call& call, Allocation* allocation, Stream* stream) {
  if (stream->capture != nullptr && !allocation->graph_owned) {
    invalidate(*stream->capture, "memory that the graph does not own was freed");
    return call.fail(CUDA_ERROR_INVALID_VALUE, "allocation %llu is not owned by the graph that is captured",
                     printable(allocation->id));
  }
  if (planted(Fault::kEarlyFree)) {
    free_now(*allocation, "cuMemFreeAsync");
    return CUDA_SUCCESS;
  }
  Operation operation;
  operation.what = "the free of allocation " + std::to_string(allocation->id);
  operation.accesses.push_back({allocation, allocation->base, allocation->base + allocation->bytes, true});
  operation.run = [allocation] {
    // A graph's memory comes back with its next launch.
    if (allocation->graph_owned)
      allocation->live = false;
    else
      release(*allocation);
    return CUDA_SUCCESS;
  };
  if (const Result result = enqueue(call, stream, std::move(operation)); result != CUDA_SUCCESS) return result;
  allocation->freed_by = "cuMemFreeAsync on stream " + std::to_string(stream->id);
  return CUDA_SUCCESS;
}

}  // namespace

Allocation* allocate(uint64_t bytes, Allocation::Origin origin, Context* context) {
  if (origin != Allocation::kHost && state().used + bytes > kTotalMemory) return nullptr;
  const uint64_t inner = (kOffset + bytes + kPage - 1) / kPage * kPage;
  const uint64_t mapped = inner + 2 * kPage;
  uint8_t* const mapping = take_addresses(mapped);
  if (mapping == nullptr) return nullptr;
  uint8_t* const start = mapping + kPage;
  if (mprotect(start, inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping, mapped);
    return nullptr;
  }
  auto* allocation = new Allocation();
  allocation->origin = origin;
  allocation->mapping = mapping;
  allocation->mapping_bytes = mapped;
  allocation->base = reinterpret_cast<uint64_t>(start + kOffset);
  allocation->bytes = bytes;
  allocation->id = state().next_id++;
  allocation->context = context;
  fill(start + kOffset, bytes);
  state().allocations[allocation->base] = allocation;
  if (origin != Allocation::kHost) state().used += bytes;
  return allocation;
}

bool gives_out(uint64_t address) { return address >= kFirst && address < next_address && address % kWindow >= kLeftOut; }

Allocation* find_allocation(uint64_t address, uint64_t bytes) {
  const auto after = state().allocations.upper_bound(address);
  if (after == state().allocations.begin()) return nullptr;
  Allocation* allocation = std::prev(after)->second;
  const uint64_t offset = address - allocation->base;
  return offset <= allocation->bytes && bytes <= allocation->bytes - offset ? allocation : nullptr;
}

void release(Allocation& allocation) {
  allocation.live = false;
  allocation.records.clear();
  if (allocation.origin != Allocation::kHost) state().used -= allocation.bytes;
  mmap(allocation.mapping, allocation.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
       -1, 0);
}

Allocation* device_range(Call& call, uint64_t address, uint64_t bytes, const char* what) {
  Allocation* allocation = find_allocation(address, bytes);
  if (allocation == nullptr) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "%s: %llu bytes at 0x%llx are not within an allocation", what, printable(bytes),
              printable(address));
  } else if (allocation->freed()) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "%s: 0x%llx lies in allocation %llu, freed by %s", what, printable(address),
              printable(allocation->id), allocation->freed_by.c_str());
  }
  return call.result == CUDA_SUCCESS ? allocation : nullptr;
}

Allocation* pinned_range(const void* host, uint64_t bytes) {
  Allocation* allocation = find_allocation(reinterpret_cast<uint64_t>(host), bytes);
  return allocation != nullptr && allocation->origin == Allocation::kHost && !allocation->freed() ? allocation
                                                                                                  : nullptr;
}

Result check_live(const Operation& operation) {
  for (const Access& access : operation.accesses) {
    const Allocation& allocation = *access.allocation;
    if (allocation.live) continue;
    error(operation.thread, operation.what.c_str(), CUDA_ERROR_ILLEGAL_ADDRESS, "touches allocation %llu, which %s",
          printable(allocation.id),
          allocation.freed() ? ("was freed before, by " + allocation.freed_by).c_str()
                             : "is not yet allocated, in the order of execution");
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  }
  return CUDA_SUCCESS;
}

DRIVER_API Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  Call call("cuMemGetInfo_v2");
  if (call.current() == nullptr || !call.stores_into(free_bytes) || !call.stores_into(total)) return call.result;
  *total = kTotalMemory;
  *free_bytes = kTotalMemory - state().used;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuMemAlloc_v2(DevicePointer* pointer, size_t bytes) {
  Call call("cuMemAlloc_v2");
  Context* context = call.current();
  if (context == nullptr || !call.stores_into(pointer) || call.forbidden_by_capture()) return call.result;
  if (bytes == 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "0 bytes");
  const Allocation* allocation = allocate(bytes, Allocation::kDevice, owner(context));
  if (allocation == nullptr) return call.fail(CUDA_ERROR_OUT_OF_MEMORY, "%zu bytes", bytes);
  *pointer = allocation->base;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuMemAllocAsync(DevicePointer* pointer, size_t bytes, Stream* handle) {
  Call call("cuMemAllocAsync");
  Stream* stream = call.stream(handle);
  if (stream == nullptr || !call.stores_into(pointer) || beside_capture(call, stream)) return call.result;
  if (bytes == 0) {
    // Drivers seem to take it, and no document says so.
    note(this_thread(), "zero-bytes", "cuMemAllocAsync: 0 bytes");
    *pointer = 0;
    return CUDA_SUCCESS;
  }
  return allocate_on(call, pointer, bytes, stream);
}

DRIVER_API Result cuMemFreeAsync(DevicePointer pointer, Stream* handle) {
  Call call("cuMemFreeAsync");
  Stream* stream = call.stream(handle);
  if (stream == nullptr || beside_capture(call, stream) || pointer == 0 || planted(Fault::kFreeDropped))
    return call.result;
  Allocation* allocation = freeable(call, pointer);
  if (allocation == nullptr) return call.result;
  const Result result = free_on(call, allocation, stream);
  if (!planted(Fault::kDoubleFree)) return result;
  freeable(call, pointer);
  return call.result;
}

DRIVER_API Result cuMemFree_v2(DevicePointer pointer) {
  Call call("cuMemFree_v2");
  const Context* context = call.current();
  if (context == nullptr || call.forbidden_by_capture() || pointer == 0 || planted(Fault::kFreeDropped))
    return call.result;
  Allocation* allocation = freeable(call, pointer);
  if (allocation == nullptr) return call.result;
  // Only memory of cuMemAlloc is said to be waited for.
  if (allocation->origin == Allocation::kPool)
    note_users(call, "pool-memory-in-use", *allocation);
  else
    wait_for_all(allocation->context);
  free_now(*allocation, "cuMemFree");
  return CUDA_SUCCESS;
}

DRIVER_API Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  Call call("cuMemHostAlloc");
  Context* context = call.current();
  if (context == nullptr || !call.stores_into(pointer) || call.forbidden_by_capture()) return call.result;
  if (bytes == 0 || flags > kHostAll) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%zu bytes, flags %u", bytes, flags);
  }
  if (planted(Fault::kErrorWordPageable)) {
    *pointer = std::calloc(1, bytes);
    return CUDA_SUCCESS;
  }
  const Allocation* allocation = allocate(bytes, Allocation::kHost, context);
  if (allocation == nullptr) return call.fail(CUDA_ERROR_OUT_OF_MEMORY, "%zu bytes", bytes);
  *pointer = reinterpret_cast<void*>(allocation->base);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

DRIVER_API Result cuMemFreeHost(void* pointer) {
  Call call("cuMemFreeHost");
  const Context* context = call.current();
  if (context == nullptr || call.forbidden_by_capture()) return call.result;
  Allocation* allocation = pinned_range(pointer, 0);
  if (allocation == nullptr || allocation->base != reinterpret_cast<uint64_t>(pointer)) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "%p is no host allocation, or was freed", pointer);
  }
  note_users(call, "host-memory-in-use", *allocation);  // no document says that this call waits
  free_now(*allocation, "cuMemFreeHost");
  return CUDA_SUCCESS;
}

DRIVER_API Result cuMemHostGetDevicePointer_v2(DevicePointer* device, void* host, unsigned flags) {
  Call call("cuMemHostGetDevicePointer_v2");
  if (call.current() == nullptr || !call.stores_into(device)) return call.result;
  if (flags != 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags %u, there are none", flags);
  if (pinned_range(host, 0) == nullptr) return call.fail(CUDA_ERROR_INVALID_VALUE, "%p is no mapped host memory", host);
  *device = reinterpret_cast<uint64_t>(host);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuPointerGetAttribute(void* data, int attribute, DevicePointer pointer) {
  Call call("cuPointerGetAttribute");
  if (!call.stores_into(data)) return call.result;
  const Allocation* allocation = device_range(call, pointer, 0, "pointer");
  if (allocation == nullptr) return call.result;
  switch (attribute) {
    case kPointerContext:
      *static_cast<Context**>(data) = allocation->context;
      return CUDA_SUCCESS;
    case kPointerMemoryType:
      *static_cast<unsigned*>(data) = allocation->origin == Allocation::kHost ? kMemoryHost : kMemoryDevice;
      return CUDA_SUCCESS;
    case kPointerDevicePointer:
      *static_cast<DevicePointer*>(data) = pointer;
      return CUDA_SUCCESS;
    default:
      return call.fail(CUDA_ERROR_NOT_SUPPORTED, "attribute %d is not modelled", attribute);
  }
}

}  // namespace driver
