// Events.
#include <algorithm>
#include <chrono>

#include "driver/capture.h"
#include "driver/options.h"
#include "driver/queue.h"

namespace driver {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Whether the event belongs to a capture, of which the host can ask nothing.
bool captured(Call& call, const Event* event) {
  if (event->capture == nullptr) return false;
  if (event->capture->active) invalidate(*event->capture, std::string(call.name) + " on a captured event");
  call.fail(CUDA_ERROR_CAPTURED_EVENT, "event %llu was last recorded in a capture", printable(event->id));
  return true;
}

bool finished(const Event* event) { return event->point.stream->executed >= event->point.sequence; }

Result record(Call& call, Event* event, Stream* stream) {
  if (const Capture* capture = stream->capture) {
    if (capture->invalid()) {
      return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "since %s", capture->invalid_since.c_str());
    }
    event->recorded = true;
    event->capture = stream->capture;
    event->nodes = stream->tail;
    return CUDA_SUCCESS;
  }
  Operation operation;
  operation.what = "event " + std::to_string(event->id);
  operation.run = [event] {
    event->time = now_seconds();
    return CUDA_SUCCESS;
  };
  const Result result = enqueue(call, stream, std::move(operation));
  if (result != CUDA_SUCCESS) return result;
  event->capture = nullptr;
  event->recorded = true;
  event->point = {stream, stream->enqueued};
  event->clock = stream->clock;
  return CUDA_SUCCESS;
}

Result elapsed(Call& call, float* milliseconds, Event* start_handle, Event* end_handle) {
  const Event* start = call.event(start_handle);
  if (start == nullptr) return call.result;
  const Event* end = call.event(end_handle);
  if (end == nullptr || !call.stores_into(milliseconds)) return call.result;
  for (const Event* event : {start, end}) {
    if ((event->flags & kEventDisableTiming) != 0 || !event->recorded) {
      return call.fail(CUDA_ERROR_INVALID_HANDLE, "event %llu %s", printable(event->id),
                       event->recorded ? "takes no times" : "was never recorded");
    }
    if (captured(call, event)) return call.result;
    if (!finished(event)) return CUDA_ERROR_NOT_READY;
  }
  *milliseconds = std::max(0.0005f, static_cast<float>((end->time - start->time) * 1e3));  // half a microsecond
  return CUDA_SUCCESS;
}

}  // namespace

DRIVER_API Result cuEventCreate(Event** handle, unsigned flags) {
  Call call("cuEventCreate");
  Context* context = call.current();
  if (context == nullptr || !call.stores_into(handle)) return call.result;
  if (flags > kEventAll) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags %u, at most 7", flags);
  if ((flags & kEventInterprocess) != 0 && (flags & kEventDisableTiming) == 0) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "an event between processes takes no times");
  }
  auto* event = create<Event>(Kind::kEvent, context);
  event->flags = flags;
  *handle = event;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuEventDestroy_v2(Event* handle) {
  Call call("cuEventDestroy_v2");
  Event* event = call.event(handle);
  if (event != nullptr) event->alive = false;
  return call.result;
}

DRIVER_API Result cuEventRecord(Event* handle, Stream* stream_handle) {
  Call call("cuEventRecord");
  Event* event = call.event(handle);
  if (event == nullptr) return call.result;
  Stream* stream = call.stream(stream_handle);
  if (stream == nullptr) return call.result;
  if (event->context != stream->context) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE, "event %llu and stream %llu are of different contexts",
                     printable(event->id), printable(stream->id));
  }
  return planted(Fault::kEventRecordDropped) ? CUDA_SUCCESS : record(call, event, stream);
}

DRIVER_API Result cuEventQuery(Event* handle) {
  Call call("cuEventQuery");
  const Event* event = call.event(handle);
  if (event == nullptr || captured(call, event) || call.forbidden_by_capture()) return call.result;
  if (event->context->sticky != CUDA_SUCCESS) return event->context->sticky;
  if (!event->recorded) return CUDA_SUCCESS;
  if (!finished(event)) {
    poll(event->point.stream);
    if (event->context->sticky != CUDA_SUCCESS) return event->context->sticky;
    if (!finished(event)) return CUDA_ERROR_NOT_READY;
  }
  return wait_for(event->point, event->clock);
}

DRIVER_API Result cuEventSynchronize(Event* handle) {
  Call call("cuEventSynchronize");
  const Event* event = call.event(handle);
  if (event == nullptr || captured(call, event)) return call.result;
  if (event->context->sticky != CUDA_SUCCESS) return event->context->sticky;
  return event->recorded && !planted(Fault::kSyncDropped) ? wait_for(event->point, event->clock) : CUDA_SUCCESS;
}

DRIVER_API Result cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  Call call("cuEventElapsedTime");
  return elapsed(call, milliseconds, start, end);
}

DRIVER_API Result cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  Call call("cuEventElapsedTime_v2");
  return elapsed(call, milliseconds, start, end);
}

}  // namespace driver
