#include "driver/state.h"

#include <atomic>

#include "driver/options.h"

namespace driver {

State& state() {
  static State* const all = new State();
  return *all;
}

Stream* create_stream(Context* context) {
  auto* stream = create<Stream>(Kind::kStream, context);
  context->streams.push_back(stream);
  state().streams.push_back(stream);
  return stream;
}

uint64_t this_thread() {
  static std::atomic<uint64_t> threads = 0;
  static thread_local uint64_t id = 0;
  if (id == 0) id = ++threads;
  return id;
}

uint64_t next_random() {
  uint64_t& x = state().random;
  if (x == 0) x = options().seed * 0x9e3779b97f4a7c15ull + 1;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

}  // namespace driver
