#include "driver/queue.h"

#include <cstdio>
#include <cstdlib>

#include "driver/memory.h"
#include "driver/options.h"

namespace driver {
namespace {

Result run_to(Point point);

// Executes the first operation of the queue, after all it comes after.
void run_one(Stream* stream) {
  if (stream->running) {
    // Only a bug of this driver leads here: points name operations enqueued before.
    std::fprintf(stderr, "[fake CUDA] stream %llu waits for itself\n", printable(stream->id));
    std::abort();
  }
  stream->running = true;
  const Operation operation = std::move(stream->queue.front());
  stream->queue.pop_front();
  for (Point point : operation.after) run_to(point);
  Context* context = stream->context;
  if (context->sticky == CUDA_SUCCESS) {
    Result result = check_live(operation);
    if (result == CUDA_SUCCESS) {
      for (const Access& access : operation.accesses) check_order(operation, *stream, stream->executed + 1, access);
      executing() = {&operation, stream};
      result = operation.run();
    }
    if (context->sticky == CUDA_SUCCESS) context->sticky = result;
  }
  ++stream->executed;
  stream->running = false;
}

Result run_to(Point point) {
  while (point.stream->executed < point.sequence) run_one(point.stream);
  return point.stream->context->sticky;
}

void come_after(Operation& operation, Clock& clock, const Stream* other) {
  if (other->enqueued > other->executed) operation.after.push_back({const_cast<Stream*>(other), other->enqueued});
  join(clock, *other->clock);
}

// Work on the legacy stream comes after, and before, that of all blocking streams of its context.
void order_with_legacy(const Stream* stream, Operation& operation, Clock& clock) {
  if (!stream->legacy) {
    if (stream->blocking) come_after(operation, clock, stream->context->legacy);
    return;
  }
  for (const Stream* other : stream->context->streams) {
    if (other != stream && other->blocking) come_after(operation, clock, other);
  }
}

// The legacy stream would wait for captured work.
bool implicit_dependency(Call& call, const Stream* stream) {
  if (!stream->legacy) return false;
  for (Capture* capture : state().captures) {
    if (!capture->active || !capture->origin->blocking || capture->origin->context != stream->context) continue;
    capture->invalid_since = "the legacy stream was used";
    call.fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream is used while blocking stream %llu is captured",
              printable(capture->origin->id));
    return true;
  }
  return false;
}

}  // namespace

Executing& executing() {
  static Executing now;
  return now;
}

Result enqueue(Call& call, Stream* stream, Operation operation) {
  operation.thread = this_thread();
  if (Capture* capture = stream->capture) {
    if (capture->invalid()) {
      return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "since %s", capture->invalid_since.c_str());
    }
    operation.may_overlap = operation.may_overlap && stream->tail.size() == 1 &&
                            !capture->nodes[stream->tail[0]].operation.functions.empty();
    capture->nodes.push_back({std::move(operation), stream->tail});
    stream->tail = {capture->nodes.size() - 1};
    return CUDA_SUCCESS;
  }
  if (implicit_dependency(call, stream)) return call.result;
  auto clock = std::make_shared<Clock>(*stream->clock);
  join(*clock, state().host);
  if (operation.clock != nullptr) join(*clock, *operation.clock);
  order_with_legacy(stream, operation, *clock);
  if (operation.may_overlap && stream->ends_in_kernel) ++state().overlaps;
  stream->ends_in_kernel = !operation.functions.empty();
  ++stream->enqueued;
  (*clock)[stream] = stream->enqueued;
  operation.clock = clock;
  stream->clock = clock;
  stream->queue.push_back(std::move(operation));
  // An error of execution is the context's, for the next call; as on a GPU that was fast.
  if (options().mode == Mode::kEager) run_to({stream, stream->enqueued});
  return CUDA_SUCCESS;
}

Result wait_for(Point point, const SharedClock& clock) {
  const Result result = run_to(point);
  join(state().host, *clock);
  return result;
}

Result wait_for(Stream* stream) { return wait_for({stream, stream->enqueued}, stream->clock); }

Result wait_for_all(Context* context) {
  // From a random one on, so that nothing rests on the order of creation.
  std::vector<Stream*> streams = context->streams;
  const size_t first = next_random() % streams.size();
  for (size_t i = 0; i < streams.size(); ++i) wait_for(streams[(first + i) % streams.size()]);
  return context->sticky;
}

void poll(Stream* stream) {
  if (stream->executed < stream->enqueued) run_to({stream, stream->executed + 1});
}

void some_progress() {
  std::vector<Stream*> ready;
  for (Stream* stream : state().streams) {
    if (!stream->queue.empty() && !stream->running) ready.push_back(stream);
  }
  if (!ready.empty() && next_random() % 2 == 0) run_one(ready[next_random() % ready.size()]);
}

}  // namespace driver
