#include "driver/hooks.h"

#include <algorithm>
#include <cstring>

#include "driver/call.h"
#include "driver/options.h"

namespace driver {
namespace {

enum Live { kContexts, kStreams, kEvents, kModules, kGraphs, kExecs, kDeviceMemory, kHostMemory, kLiveKinds };

// Default streams come and go with their context.
bool of_caller(const Object* object, Live& kind) {
  switch (object->kind) {
    case Kind::kContext:
      kind = kContexts;
      return true;
    case Kind::kStream: {
      kind = kStreams;
      const auto* stream = static_cast<const Stream*>(object);
      return !stream->legacy && !stream->per_thread;
    }
    case Kind::kEvent:
      kind = kEvents;
      return true;
    case Kind::kModule:
      kind = kModules;
      return true;
    case Kind::kGraph:
      kind = kGraphs;
      return true;
    case Kind::kExec:
      kind = kExecs;
      return true;
    case Kind::kFunction:
      return false;
  }
  return false;
}

}  // namespace

std::vector<std::string> live_objects(const Context* context) {
  static constexpr const char* kWords[] = {"", "stream", "event", "module", "graph", "executable graph"};
  // In a broken context nothing can be destroyed any more.
  const auto within = [&](const Context* of) {
    return (context == nullptr || of == context) && (of == nullptr || of->sticky == CUDA_SUCCESS);
  };
  std::vector<std::string> all;
  for (const Object* object : state().objects) {
    Live kind;
    if (!object->alive || !of_caller(object, kind) || !within(object->context)) continue;
    // A context is held to the end by its owner, which often is a static; what is in it may not.
    if (kind != kContexts) all.push_back(std::string(kWords[kind]) + " " + std::to_string(object->id));
  }
  for (const auto& [base, allocation] : state().allocations) {
    if (allocation->freed() || !within(allocation->context)) continue;
    all.push_back((allocation->origin == Allocation::kHost ? "host allocation " : "allocation ") +
                  std::to_string(allocation->id) + " of " + std::to_string(allocation->bytes) + " bytes");
  }
  return all;
}

// Contexts, streams, events, modules, graphs, executable graphs, allocations, host allocations that are alive.
DRIVER_API void fake_cuda_live(uint64_t counts[kLiveKinds]) {
  const std::lock_guard lock(state().mutex);
  std::fill_n(counts, kLiveKinds, 0);
  for (const Object* object : state().objects) {
    Live kind;
    if (object->alive && of_caller(object, kind)) ++counts[kind];
  }
  for (const auto& [base, allocation] : state().allocations) {
    if (!allocation->freed()) ++counts[allocation->origin == Allocation::kHost ? kHostMemory : kDeviceMemory];
  }
}

// Calls of this function so far, of all functions for null.
DRIVER_API uint64_t fake_cuda_calls(const char* name) {
  const std::lock_guard lock(state().mutex);
  uint64_t sum = 0;
  for (const auto& [called, count] : state().calls) {
    if (name == nullptr || called == name) sum += count;
  }
  return sum;
}

// Launches of kernels so far that might start while the kernel ahead of them, in their stream or in their graph, still
// ran: with programmatic stream serialisation allowed. Here it never does.
DRIVER_API uint64_t fake_cuda_overlaps() {
  const std::lock_guard lock(state().mutex);
  return state().overlaps;
}

// The calling thread's call of this function, after `after` others, fails with `code` and does nothing; a code that
// breaks a context breaks the current one. That failure is no problem.
DRIVER_API void fake_cuda_fail(const char* name, int after, int code) {
  const std::lock_guard lock(state().mutex);
  fail_later(name, after, code);
}

// Problems of the calling thread that were not taken: refused calls, notes, and what its operations did when executed.
DRIVER_API uint64_t fake_cuda_problems() {
  const std::lock_guard lock(state().mutex);
  return count_problems(this_thread());
}

// Takes the oldest of them, cut to `bytes` with the null; 0 when there is none. Under FAKE_CUDA_STRICT what is taken
// was expected.
DRIVER_API int fake_cuda_take_problem(char* text, size_t bytes) {
  const std::lock_guard lock(state().mutex);
  std::string problem;
  if (!take_problem(this_thread(), problem)) return 0;
  if (bytes > 0) {
    const size_t length = std::min(bytes - 1, problem.size());
    std::memcpy(text, problem.data(), length);
    text[length] = '\0';
  }
  return 1;
}

// As though the environment had FAKE_CUDA_<name>=value from now on; 0 when there is no such variable or value.
DRIVER_API int fake_cuda_set(const char* name, const char* value) {
  const std::lock_guard lock(state().mutex);
  return set_option(options(), name, value);
}

}  // namespace driver
