// Contexts, and which is current on a thread.
#include "driver/capture.h"
#include "driver/hooks.h"
#include "driver/memory.h"
#include "driver/options.h"
#include "driver/queue.h"

namespace driver {
namespace {

Context* new_context() {
  auto* context = create<Context>(Kind::kContext, nullptr);
  context->context = context;
  context->legacy = create_stream(context);
  context->legacy->legacy = true;
  return context;
}

// What is queued runs first; then all that the context owns is gone.
void destroy(Context* context) {
  wait_for_all(context);
  for (const std::string& object : live_objects(context)) state().left_behind.push_back(object);
  for (Object* object : state().objects) {
    const bool owned = object->kind == Kind::kStream || object->kind == Kind::kEvent || object->kind == Kind::kModule ||
                       object->kind == Kind::kFunction;
    if (object->context == context && owned) object->alive = false;
  }
  for (const auto& [base, allocation] : state().allocations) {
    if (allocation->context != context || allocation->freed()) continue;
    allocation->freed_by = "the end of its context";
    if (allocation->live) release(*allocation);
  }
  std::erase_if(state().streams, [&](const Stream* stream) { return stream->context == context; });
  context->alive = false;
}

Result create_context(Call& call, Context** handle, Device device) {
  if (!call.device(device) || !call.stores_into(handle) || call.forbidden_by_capture()) return call.result;
  ContextStack& stack = context_stack();
  if (stack.count == ContextStack::kMost) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "too many contexts on a thread");
  *handle = stack.contexts[stack.count++] = new_context();
  return CUDA_SUCCESS;
}

}  // namespace

DRIVER_API Result cuDevicePrimaryCtxRetain(Context** handle, Device device) {
  Call call("cuDevicePrimaryCtxRetain");
  if (!call.device(device) || !call.stores_into(handle)) return call.result;
  Context*& primary = state().primary;
  if (primary == nullptr) {
    primary = new_context();
    primary->primary = true;
  }
  ++primary->references;
  *handle = primary;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuDevicePrimaryCtxRelease_v2(Device device) {
  Call call("cuDevicePrimaryCtxRelease_v2");
  if (!call.device(device)) return call.result;
  Context*& primary = state().primary;
  if (primary == nullptr) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "released more often than retained");
  if (--primary->references > 0) return CUDA_SUCCESS;
  destroy(primary);
  primary = nullptr;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxCreate_v2(Context** context, unsigned, Device device) {
  Call call("cuCtxCreate_v2");
  return create_context(call, context, device);
}

DRIVER_API Result cuCtxCreate_v3(Context** context, void*, int, unsigned, Device device) {
  Call call("cuCtxCreate_v3");
  return create_context(call, context, device);
}

DRIVER_API Result cuCtxCreate_v4(Context** context, void*, unsigned, Device device) {
  Call call("cuCtxCreate_v4");
  return create_context(call, context, device);
}

DRIVER_API Result cuCtxDestroy_v2(Context* handle) {
  Call call("cuCtxDestroy_v2");
  Context* context = call.context(handle);
  if (context == nullptr) return call.result;
  if (context->primary) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "the primary context is released, not destroyed");
  destroy(context);
  if (context_stack().current() == context) --context_stack().count;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxGetCurrent(Context** handle) {
  Call call("cuCtxGetCurrent");
  if (!call.stores_into(handle)) return call.result;
  *handle = context_stack().current();
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxSetCurrent(Context* handle) {
  Call call("cuCtxSetCurrent");
  ContextStack& stack = context_stack();
  if (call.result != CUDA_SUCCESS || planted(Fault::kContextNotBound)) return call.result;
  if (handle == nullptr) {
    if (stack.count > 0) --stack.count;
    return CUDA_SUCCESS;
  }
  Context* context = call.context(handle);
  if (context == nullptr) return call.result;
  if (stack.count == 0) stack.count = 1;
  stack.contexts[stack.count - 1] = context;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxPushCurrent_v2(Context* handle) {
  Call call("cuCtxPushCurrent_v2");
  Context* context = call.context(handle);
  if (context == nullptr) return call.result;
  ContextStack& stack = context_stack();
  if (stack.count == ContextStack::kMost) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "too many contexts on a thread");
  stack.contexts[stack.count++] = context;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxPopCurrent_v2(Context** handle) {
  Call call("cuCtxPopCurrent_v2");
  if (call.result != CUDA_SUCCESS) return call.result;
  ContextStack& stack = context_stack();
  if (stack.count == 0) return call.fail(CUDA_ERROR_INVALID_CONTEXT, "nothing to pop");
  if (handle != nullptr) *handle = stack.current();
  --stack.count;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxGetDevice(Device* device) {
  Call call("cuCtxGetDevice");
  if (call.current() == nullptr || !call.stores_into(device)) return call.result;
  *device = 0;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxGetApiVersion(Context* handle, unsigned* version) {
  Call call("cuCtxGetApiVersion");
  if (handle != nullptr ? call.context(handle) == nullptr : call.current() == nullptr) return call.result;
  if (!call.stores_into(version)) return call.result;
  *version = static_cast<unsigned>(options().version);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuCtxSynchronize() {
  Call call("cuCtxSynchronize");
  Context* context = call.current();
  if (context == nullptr) return call.result;
  for (Capture* capture : state().captures) {
    if (!capture->active || capture->origin->context != context) continue;
    invalidate(*capture, "cuCtxSynchronize was called");
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "stream %llu of the context is captured",
                     printable(capture->origin->id));
  }
  return planted(Fault::kSyncDropped) ? CUDA_SUCCESS : wait_for_all(context);
}

// Hints and limits change nothing here.
DRIVER_API Result cuCtxSetFlags(unsigned) {
  Call call("cuCtxSetFlags");
  call.current();
  return call.result;
}

DRIVER_API Result cuCtxSetLimit(int, size_t) {
  Call call("cuCtxSetLimit");
  call.current();
  return call.result;
}

DRIVER_API Result cuCtxSetCacheConfig(int) {
  Call call("cuCtxSetCacheConfig");
  call.current();
  return call.result;
}

DRIVER_API Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  Call call("cuCtxGetStreamPriorityRange");
  if (call.current() == nullptr) return call.result;
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = kGreatestPriority;
  return CUDA_SUCCESS;
}

}  // namespace driver
