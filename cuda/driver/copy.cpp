// Copies and sets. Where they are asynchronous: programming guide, "API synchronization behavior".
#include <cstring>

#include "driver/memory.h"
#include "driver/queue.h"

namespace driver {
namespace {

struct Copy {
  const char* what;
  uint64_t to, from, bytes;
  Allocation* target;  // null: pageable host memory
  Allocation* source;
};

Result enqueue_copy(Call& call, Stream* stream, const Copy& copy, std::shared_ptr<const std::vector<uint8_t>> staged) {
  Operation operation;
  operation.what = copy.what;
  if (copy.target != nullptr) operation.accesses.push_back({copy.target, copy.to, copy.to + copy.bytes, true});
  if (copy.source != nullptr) operation.accesses.push_back({copy.source, copy.from, copy.from + copy.bytes, false});
  operation.run = [copy, staged] {
    const void* source = staged != nullptr ? staged->data() : reinterpret_cast<const void*>(copy.from);
    std::memmove(reinterpret_cast<void*>(copy.to), source, copy.bytes);
    return CUDA_SUCCESS;
  };
  return enqueue(call, stream, std::move(operation));
}

// Host memory is not the device's, and not freed.
bool host_range(Call& call, const void* host, uint64_t bytes) {
  if (host == nullptr) {
    call.fail(CUDA_ERROR_INVALID_VALUE, "the host pointer is null");
    return false;
  }
  const Allocation* allocation = find_allocation(reinterpret_cast<uint64_t>(host), 0);
  if (allocation == nullptr || reinterpret_cast<uint64_t>(host) == allocation->base + allocation->bytes) return true;
  if (allocation->origin != Allocation::kHost)
    call.fail(CUDA_ERROR_INVALID_VALUE, "host pointer %p is device memory", host);
  else
    device_range(call, reinterpret_cast<uint64_t>(host), bytes, "host pointer");
  return call.result == CUDA_SUCCESS;
}

Result to_device(Call& call, DevicePointer to, const void* from, size_t bytes, Stream* stream, bool wait) {
  if (stream == nullptr || bytes == 0) return call.result;
  Allocation* target = device_range(call, to, bytes, "destination");
  if (target == nullptr || !host_range(call, from, bytes)) return call.result;
  Allocation* source = pinned_range(from, bytes);
  std::shared_ptr<const std::vector<uint8_t>> staged;
  const auto* data = static_cast<const uint8_t*>(from);
  if (source == nullptr && stream->capture != nullptr) {
    note(this_thread(), "pageable-capture", "%s: a copy from pageable memory is captured: every launch reads %p again",
         call.name, from);
  } else if (source == nullptr) {
    staged = std::make_shared<const std::vector<uint8_t>>(data, data + bytes);  // before the call returns
  }
  const Copy copy = {"a copy to the device", to, reinterpret_cast<uint64_t>(from), bytes, target, source};
  const Result result = enqueue_copy(call, stream, copy, staged);
  return result == CUDA_SUCCESS && wait ? wait_for(stream) : result;
}

Result to_host(Call& call, void* to, DevicePointer from, size_t bytes, Stream* stream, bool wait) {
  if (stream == nullptr || bytes == 0) return call.result;
  Allocation* source = device_range(call, from, bytes, "source");
  if (source == nullptr || !host_range(call, to, bytes)) return call.result;
  Allocation* target = pinned_range(to, bytes);
  const Copy copy = {"a copy to the host", reinterpret_cast<uint64_t>(to), from, bytes, target, source};
  const Result result = enqueue_copy(call, stream, copy, nullptr);
  if (result != CUDA_SUCCESS) return result;
  if (stream->capture != nullptr) {
    if (target == nullptr) {
      note(this_thread(), "pageable-capture", "%s: a copy to pageable memory is captured, and nothing is copied now",
           call.name);
    }
    return CUDA_SUCCESS;
  }
  return target == nullptr || wait ? wait_for(stream) : CUDA_SUCCESS;
}

Result on_device(Call& call, DevicePointer to, DevicePointer from, size_t bytes, Stream* stream) {
  if (stream == nullptr || bytes == 0) return call.result;
  Allocation* target = device_range(call, to, bytes, "destination");
  if (target == nullptr) return call.result;
  Allocation* source = device_range(call, from, bytes, "source");
  if (source == nullptr) return call.result;
  return enqueue_copy(call, stream, {"a copy on the device", to, from, bytes, target, source}, nullptr);
}

template <class Value>
Result set(Call& call, DevicePointer to, Value value, size_t count, Stream* stream) {
  if (stream == nullptr || count == 0) return call.result;
  if (to % sizeof value != 0) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "0x%llx is not aligned to %zu bytes", printable(to), sizeof value);
  }
  Allocation* target = device_range(call, to, count * sizeof value, "destination");
  if (target == nullptr) return call.result;
  Operation operation;
  operation.what = "a memset";
  operation.accesses.push_back({target, to, to + count * sizeof value, true});
  operation.run = [to, value, count] {
    std::fill_n(reinterpret_cast<Value*>(to), count, value);
    return CUDA_SUCCESS;
  };
  return enqueue(call, stream, std::move(operation));
}

// The legacy stream, for calls that take none and that no capture may see.
Stream* legacy(Call& call) {
  Stream* stream = call.stream(nullptr);
  return stream == nullptr || call.forbidden_by_capture() ? nullptr : stream;
}

}  // namespace

DRIVER_API Result cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t bytes, Stream* handle) {
  Call call("cuMemcpyHtoDAsync_v2");
  return to_device(call, to, from, bytes, call.stream(handle), false);
}

DRIVER_API Result cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t bytes, Stream* handle) {
  Call call("cuMemcpyDtoHAsync_v2");
  return to_host(call, to, from, bytes, call.stream(handle), false);
}

DRIVER_API Result cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t bytes, Stream* handle) {
  Call call("cuMemcpyDtoDAsync_v2");
  return on_device(call, to, from, bytes, call.stream(handle));
}

DRIVER_API Result cuMemcpyHtoD_v2(DevicePointer to, const void* from, size_t bytes) {
  Call call("cuMemcpyHtoD_v2");
  return to_device(call, to, from, bytes, legacy(call), true);
}

DRIVER_API Result cuMemcpyDtoH_v2(void* to, DevicePointer from, size_t bytes) {
  Call call("cuMemcpyDtoH_v2");
  return to_host(call, to, from, bytes, legacy(call), true);
}

DRIVER_API Result cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t bytes) {
  Call call("cuMemcpyDtoD_v2");
  return on_device(call, to, from, bytes, legacy(call));
}

DRIVER_API Result cuMemsetD8Async(DevicePointer to, unsigned char value, size_t count, Stream* handle) {
  Call call("cuMemsetD8Async");
  return set<uint8_t>(call, to, value, count, call.stream(handle));
}

DRIVER_API Result cuMemsetD32Async(DevicePointer to, unsigned value, size_t count, Stream* handle) {
  Call call("cuMemsetD32Async");
  return set<uint32_t>(call, to, value, count, call.stream(handle));
}

DRIVER_API Result cuMemsetD8_v2(DevicePointer to, unsigned char value, size_t count) {
  Call call("cuMemsetD8_v2");
  return set<uint8_t>(call, to, value, count, legacy(call));
}

}  // namespace driver
