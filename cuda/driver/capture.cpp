#include "driver/capture.h"

#include <algorithm>
#include <utility>

#include "driver/call.h"

namespace driver {
namespace {

// Whether some node does not come before what the origin was given last.
bool unjoined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size());
  std::vector<size_t> open = capture.origin->tail;
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    open.insert(open.end(), capture.nodes[node].after.begin(), capture.nodes[node].after.end());
  }
  return std::find(reached.begin(), reached.end(), false) != reached.end();
}

void close(Capture& capture) {
  for (Stream* member : capture.members) {
    member->capture = nullptr;
    member->tail.clear();
  }
  capture.active = false;
  std::erase(state().captures, &capture);  // events may still name it
}

}  // namespace

void invalidate(Capture& capture, const std::string& why) {
  if (!capture.invalid()) capture.invalid_since = why;
}

DRIVER_API Result cuStreamBeginCapture_v2(Stream* handle, CaptureMode mode) {
  Call call("cuStreamBeginCapture_v2");
  Stream* stream = call.stream(handle);
  if (stream == nullptr) return call.result;
  if (stream->legacy) return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream");
  if (mode < kCaptureGlobal || mode > kCaptureRelaxed) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "mode %d, there are 0 to 2", mode);
  }
  if (stream->capture != nullptr) {
    return call.fail(CUDA_ERROR_ILLEGAL_STATE, "stream %llu is already captured", printable(stream->id));
  }
  auto* capture = new Capture();
  capture->origin = stream;
  capture->mode = mode;
  capture->thread = this_thread();
  capture->members.insert(stream);
  stream->capture = capture;
  state().captures.push_back(capture);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuStreamEndCapture(Stream* handle, Graph** graph) {
  Call call("cuStreamEndCapture");
  Stream* stream = call.stream(handle);
  if (stream == nullptr || !call.stores_into(graph)) return call.result;
  Capture* capture = stream->capture;
  if (capture == nullptr) {
    return call.fail(CUDA_ERROR_ILLEGAL_STATE, "stream %llu is not captured", printable(stream->id));
  }
  if (capture->origin != stream) {
    invalidate(*capture, "it was ended on another stream");
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture began on stream %llu",
                     printable(capture->origin->id));
  }
  if (capture->mode != kCaptureRelaxed && capture->thread != this_thread()) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began on another thread");
  }
  const bool loose = unjoined(*capture);
  close(*capture);
  *graph = nullptr;
  if (capture->invalid()) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "since %s", capture->invalid_since.c_str());
  }
  if (loose) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream that joined the capture was not joined back");
  }
  if (capture->nodes.empty()) note(this_thread(), "empty-graph", "cuStreamEndCapture: nothing was captured");
  auto* made = create<Graph>(Kind::kGraph, stream->context);
  made->nodes = std::move(capture->nodes);
  *graph = made;
  return CUDA_SUCCESS;
}

// How strict captures are with the calling thread, from now on.
DRIVER_API Result cuThreadExchangeStreamCaptureMode(CaptureMode* mode) {
  Call call("cuThreadExchangeStreamCaptureMode");
  if (!call.stores_into(mode)) return call.result;
  if (*mode < kCaptureGlobal || *mode > kCaptureRelaxed) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "mode %d, there are 0 to 2", *mode);
  }
  std::swap(*mode, state().capture_modes[this_thread()]);
  return CUDA_SUCCESS;
}

DRIVER_API Result cuStreamIsCapturing(Stream* handle, CaptureStatus* status) {
  Call call("cuStreamIsCapturing");
  const Stream* stream = call.stream(handle);
  if (stream == nullptr || !call.stores_into(status)) return call.result;
  if (stream->capture == nullptr)
    *status = kCaptureNone;
  else
    *status = stream->capture->invalid() ? kCaptureInvalidated : kCaptureActive;
  return CUDA_SUCCESS;
}

}  // namespace driver
