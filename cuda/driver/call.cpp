#include "driver/call.h"

#include "driver/capture.h"
#include "driver/options.h"
#include "driver/queue.h"

namespace driver {
namespace {

struct Injected {
  std::string name;
  int after = 0;
  Result code = CUDA_SUCCESS;
};

std::map<uint64_t, Injected>& injected() {
  static auto* const all = new std::map<uint64_t, Injected>();
  return *all;
}

// Those that "Data types used by CUDA driver" says leave the process in an inconsistent state.
bool breaks_context(Result code) {
  return code == CUDA_ERROR_ILLEGAL_ADDRESS ||
         (code >= CUDA_ERROR_HARDWARE_STACK_ERROR && code <= CUDA_ERROR_LAUNCH_FAILED) ||
         code == CUDA_ERROR_LAUNCH_TIMEOUT || code == CUDA_ERROR_ASSERT;
}

// Whether a test wants this call to fail. Such a failure is no problem: it was asked for.
bool inject(const char* name, Result& result) {
  const auto found = injected().find(this_thread());
  if (found == injected().end() || found->second.name != name || found->second.after-- > 0) return false;
  result = found->second.code;
  injected().erase(found);
  Context* context = context_stack().current();
  if (breaks_context(result) && context != nullptr) context->sticky = result;
  return true;
}

}  // namespace

void fail_later(const char* name, int after, int code) {
  injected()[this_thread()] = {name, after, static_cast<Result>(code)};
}

ContextStack& context_stack() {
  static thread_local ContextStack stack;
  return stack;
}

Call::Call(const char* name, bool needs_init) : name(name), lock_(state().mutex) {
  ++state().calls[name];
  if (needs_init && !state().initialized) fail(CUDA_ERROR_NOT_INITIALIZED, "before cuInit");
  if (state().in_host_function) fail(CUDA_ERROR_NOT_PERMITTED, "a host function may not call the driver");
  if (result == CUDA_SUCCESS && inject(name, result)) return;
  if (options().mode == Mode::kRandom && !state().in_host_function) some_progress();
}

Result Call::fail(Result code, const char* format, ...) {
  result = code;
  va_list arguments;
  va_start(arguments, format);
  error_list(this_thread(), name, code, format, arguments);
  va_end(arguments);
  return code;
}

bool Call::stores_into(const void* target) {
  if (result == CUDA_SUCCESS && target == nullptr) fail(CUDA_ERROR_INVALID_VALUE, "a null pointer to store into");
  return result == CUDA_SUCCESS;
}

Context* Call::current() {
  if (result != CUDA_SUCCESS) return nullptr;
  Context* context = context_stack().current();
  if (context == nullptr) {
    fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread");
  } else if (!context->alive) {
    fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the current context was destroyed");
  } else {
    result = context->sticky;  // its cause was reported
  }
  return result == CUDA_SUCCESS ? context : nullptr;
}

Context* Call::context(Context* handle) {
  if (result != CUDA_SUCCESS) return nullptr;
  Context* context = find_object(handle, Kind::kContext);
  if (context == nullptr) fail(CUDA_ERROR_INVALID_CONTEXT, "no such context, or it was destroyed");
  return context;
}

Stream* Call::stream(Stream* handle) {
  const auto value = reinterpret_cast<uintptr_t>(handle);
  if (value <= kPerThreadStream) {
    Context* context = current();
    if (context == nullptr || value != kPerThreadStream) return context != nullptr ? context->legacy : nullptr;
    Stream*& own = context->per_thread[this_thread()];
    if (own == nullptr) {
      own = create_stream(context);
      own->per_thread = true;
    }
    return own;
  }
  if (result != CUDA_SUCCESS) return nullptr;
  Stream* stream = find_object(handle, Kind::kStream);
  if (stream == nullptr) {
    const bool known = state().handles.contains(handle);
    fail(CUDA_ERROR_INVALID_HANDLE, known ? "the stream was destroyed" : "no such stream");
    return nullptr;
  }
  result = stream->context->sticky;
  if (result != CUDA_SUCCESS) return nullptr;
  if (context_stack().current() != stream->context) {
    note(this_thread(), "foreign-stream", "%s: stream %llu is of a context that is not current", name,
         printable(stream->id));
  }
  return stream;
}

#define DRIVER_FIND(Type, method, kind, code)                               \
  Type* Call::method(Type* handle) {                                        \
    if (result != CUDA_SUCCESS) return nullptr;                             \
    Type* found = find_object(handle, kind);                                \
    if (found == nullptr) fail(code, "no such " #method ", or it is gone"); \
    return found;                                                           \
  }
DRIVER_FIND(Event, event, Kind::kEvent, CUDA_ERROR_INVALID_HANDLE)
DRIVER_FIND(Function, function, Kind::kFunction, CUDA_ERROR_INVALID_HANDLE)
DRIVER_FIND(Module, module, Kind::kModule, CUDA_ERROR_INVALID_HANDLE)
DRIVER_FIND(Graph, graph, Kind::kGraph, CUDA_ERROR_INVALID_VALUE)
DRIVER_FIND(Exec, exec, Kind::kExec, CUDA_ERROR_INVALID_VALUE)
#undef DRIVER_FIND

bool Call::device(Device device) {
  if (result == CUDA_SUCCESS && (device < 0 || device >= options().devices)) {
    fail(CUDA_ERROR_INVALID_DEVICE, "device %d of %d", device, options().devices);
  }
  return result == CUDA_SUCCESS;
}

bool Call::forbidden_by_capture() {
  if (result != CUDA_SUCCESS) return true;
  // The table of cuThreadExchangeStreamCaptureMode: a relaxed thread may do everything, a thread-local one minds its
  // own captures only.
  const auto found = state().capture_modes.find(this_thread());
  const CaptureMode thread_mode = found != state().capture_modes.end() ? found->second : kCaptureGlobal;
  if (thread_mode == kCaptureRelaxed) return false;
  for (Capture* capture : state().captures) {
    if (!capture->active || capture->mode == kCaptureRelaxed) continue;
    const bool own = capture->thread == this_thread();
    if (!own && (capture->mode != kCaptureGlobal || thread_mode != kCaptureGlobal)) continue;
    invalidate(*capture, std::string(name) + " was called");
    fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while stream %llu is captured (%s)",
         printable(capture->origin->id), own ? "by this thread" : "by another thread, in global mode");
    return true;
  }
  return false;
}

}  // namespace driver
