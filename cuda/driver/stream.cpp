// Streams.
#include "driver/capture.h"
#include "driver/options.h"
#include "driver/queue.h"

namespace driver {
namespace {

Result new_stream(Call& call, Stream** handle, unsigned flags, int priority) {
  Context* context = call.current();
  if (context == nullptr || !call.stores_into(handle)) return call.result;
  if (flags > kStreamNonBlocking) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags %u, at most 1", flags);
  Stream* stream = create_stream(context);
  stream->blocking = flags != kStreamNonBlocking;
  stream->priority = priority;
  *handle = stream;
  return CUDA_SUCCESS;
}

// Waiting for a captured stream, or asking it, breaks the capture.
bool waits_for_capture(Call& call, const Stream* stream) {
  if (stream->capture == nullptr) return false;
  invalidate(*stream->capture, std::string(call.name) + " was called");
  call.fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "stream %llu is captured", printable(stream->id));
  return true;
}

// So that waiting for the legacy stream waits for all blocking ones.
Result join_blocking(Call& call, Stream* stream) {
  if (!stream->legacy) return CUDA_SUCCESS;
  Operation operation;
  operation.what = "a wait";
  operation.run = [] { return CUDA_SUCCESS; };
  return enqueue(call, stream, std::move(operation));
}

// `theirs` is being captured: the stream joins.
Result join_capture(Call& call, Stream* stream, const Event* event) {
  Capture* theirs = event->capture;
  if (!theirs->active) {
    return call.fail(CUDA_ERROR_CAPTURED_EVENT, "event %llu was last recorded in a capture that has ended",
                     printable(event->id));
  }
  if (theirs->invalid()) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "since %s", theirs->invalid_since.c_str());
  }
  if (stream->legacy) return call.fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream cannot join a capture");
  if (stream->capture != nullptr && stream->capture != theirs) {
    invalidate(*stream->capture, "two captures were merged");
    invalidate(*theirs, "two captures were merged");
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_MERGE, "stream %llu is in another capture", printable(stream->id));
  }
  if (stream->capture == nullptr) {
    stream->capture = theirs;
    stream->tail.clear();
    theirs->members.insert(stream);
  }
  std::set<size_t> tail(stream->tail.begin(), stream->tail.end());
  tail.insert(event->nodes.begin(), event->nodes.end());
  stream->tail.assign(tail.begin(), tail.end());
  return CUDA_SUCCESS;
}

Result wait_in_capture(Call& call, const Stream* stream, const Event* event) {
  Capture& capture = *stream->capture;
  if (capture.invalid()) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "since %s", capture.invalid_since.c_str());
  }
  if (!event->recorded) {
    note(this_thread(), "unrecorded-event-in-capture",
         "cuStreamWaitEvent: captured stream %llu waits for event %llu, which was never recorded",
         printable(stream->id), printable(event->id));
    return CUDA_SUCCESS;
  }
  invalidate(capture, "it was made to wait for an event outside");
  return call.fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                   "captured stream %llu cannot wait for event %llu, recorded outside the capture",
                   printable(stream->id), printable(event->id));
}

}  // namespace

DRIVER_API Result cuStreamCreate(Stream** handle, unsigned flags) {
  Call call("cuStreamCreate");
  return new_stream(call, handle, flags, 0);
}

DRIVER_API Result cuStreamCreateWithPriority(Stream** handle, unsigned flags, int priority) {
  Call call("cuStreamCreateWithPriority");
  return new_stream(call, handle, flags, priority);
}

DRIVER_API Result cuStreamDestroy_v2(Stream* handle) {
  Call call("cuStreamDestroy_v2");
  if (reinterpret_cast<uintptr_t>(handle) <= kPerThreadStream) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE, "a default stream");
  }
  Stream* stream = call.stream(handle);
  if (stream == nullptr) return call.result;
  if (stream->capture != nullptr) invalidate(*stream->capture, "a captured stream was destroyed");
  stream->alive = false;  // what is queued still runs
  return CUDA_SUCCESS;
}

DRIVER_API Result cuStreamSynchronize(Stream* handle) {
  Call call("cuStreamSynchronize");
  Stream* stream = call.stream(handle);
  if (stream == nullptr || waits_for_capture(call, stream) || planted(Fault::kSyncDropped)) return call.result;
  if (const Result result = join_blocking(call, stream); result != CUDA_SUCCESS) return result;
  return wait_for(stream);
}

DRIVER_API Result cuStreamQuery(Stream* handle) {
  Call call("cuStreamQuery");
  Stream* stream = call.stream(handle);
  if (stream == nullptr || waits_for_capture(call, stream)) return call.result;
  if (stream->executed < stream->enqueued) {
    poll(stream);
    if (stream->context->sticky != CUDA_SUCCESS) return stream->context->sticky;
    if (stream->executed < stream->enqueued) return CUDA_ERROR_NOT_READY;
  }
  return wait_for(stream);
}

DRIVER_API Result cuStreamGetCtx(Stream* handle, Context** context) {
  Call call("cuStreamGetCtx");
  const Stream* stream = call.stream(handle);
  if (stream == nullptr || !call.stores_into(context)) return call.result;
  *context = stream->context;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuStreamWaitEvent(Stream* handle, Event* event_handle, unsigned flags) {
  Call call("cuStreamWaitEvent");
  Stream* stream = call.stream(handle);
  if (stream == nullptr) return call.result;
  const Event* event = call.event(event_handle);
  if (event == nullptr) return call.result;
  if (flags != 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags %u, there are none", flags);
  if (planted(Fault::kEventWaitDropped)) return CUDA_SUCCESS;
  if (event->capture != nullptr) return join_capture(call, stream, event);
  if (stream->capture != nullptr) return wait_in_capture(call, stream, event);
  if (!event->recorded) return CUDA_SUCCESS;
  Operation operation;
  operation.what = "a wait for event " + std::to_string(event->id);
  operation.clock = event->clock;
  if (event->point.stream != stream) operation.after.push_back(event->point);
  operation.run = [] { return CUDA_SUCCESS; };
  return enqueue(call, stream, std::move(operation));
}

DRIVER_API Result cuLaunchHostFunc(Stream* handle, void (*function)(void*), void* argument) {
  Call call("cuLaunchHostFunc");
  Stream* stream = call.stream(handle);
  if (stream == nullptr) return call.result;
  if (function == nullptr) return call.fail(CUDA_ERROR_INVALID_VALUE, "the function is null");
  Operation operation;
  operation.what = "a host function";
  operation.run = [function, argument] {
    state().in_host_function = true;
    function(argument);
    state().in_host_function = false;
    return CUDA_SUCCESS;
  };
  return enqueue(call, stream, std::move(operation));
}

}  // namespace driver
