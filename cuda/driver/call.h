// A call of the API while it runs: holds the lock, counts, finds what handles name, says why it refuses.
#pragma once
#include <mutex>

#include "driver/problems.h"
#include "driver/state.h"

namespace driver {

class Call {
 public:
  explicit Call(const char* name, bool needs_init = true);

  // The answer so far.
  Result result = CUDA_SUCCESS;
  const char* const name;

  [[gnu::format(printf, 3, 4)]] Result fail(Result code, const char* format, ...);
  // Fails when a pointer that the call stores into is null.
  bool stores_into(const void* target);

  // Each answers null, with `result` set, when there is none.
  Context* current();  // of this thread, alive and whole
  Context* context(Context* handle);
  Stream* stream(Stream* handle);  // null and the constants of api.h name default streams of the current context
  Event* event(Event* handle);
  Function* function(Function* handle);
  Module* module(Module* handle);
  Graph* graph(Graph* handle);
  Exec* exec(Exec* handle);
  bool device(Device device);

  // Fails, and invalidates the capture, where a capture forbids calls that it would not see.
  bool forbidden_by_capture();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

// The contexts of a thread, the current one last. Without a destructor: those of the caller's own thread-locals may
// call.
struct ContextStack {
  static constexpr int kMost = 64;
  Context* contexts[kMost];
  int count;
  Context* current() const { return count == 0 ? nullptr : contexts[count - 1]; }
};
ContextStack& context_stack();

// The call of this name by this thread, after `after` others, fails with `code`; a code that breaks a context breaks
// the current one.
void fail_later(const char* name, int after, int code);

}  // namespace driver
