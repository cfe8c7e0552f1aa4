// What the driver knows: objects behind handles, memory, queues, captures. One lock guards it all (`Call` holds it).
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "driver/api.h"
#include "driver/cubin.h"
#include "driver/ordering.h"

namespace driver {

enum class Kind { kContext, kStream, kEvent, kModule, kFunction, kGraph, kExec };

// What a handle names. Never freed: a stale handle is recognised, not followed.
struct Object {
  Kind kind;
  bool alive = true;
  Context* context = nullptr;
  uint64_t id = 0;
};

// A place in a stream: reached when `sequence` of its operations have been executed.
struct Point {
  Stream* stream = nullptr;
  uint64_t sequence = 0;
};

// One entry of a queue, or one node of a graph.
struct Operation {
  std::string what;
  std::function<Result()> run;
  std::vector<Point> after;          // of other streams
  std::vector<Access> accesses;      // what it touches, as far as the call tells
  std::vector<Function*> functions;  // what it launches
  bool may_overlap = false;          // a kernel that may start while the one directly ahead of it runs
  uint64_t thread = 0;               // who called
  SharedClock clock;
};

struct Stream : Object {
  bool blocking = true;  // ordered with the legacy stream
  bool legacy = false;
  bool per_thread = false;
  int priority = 0;
  std::deque<Operation> queue;
  uint64_t enqueued = 0, executed = 0;
  bool running = false;
  SharedClock clock = std::make_shared<Clock>();  // of the last operation enqueued
  struct Capture* capture = nullptr;
  std::vector<size_t> tail;  // nodes of the capture that the next one comes after
  bool ends_in_kernel = false;  // what was enqueued last, outside of captures
};

struct Event : Object {
  unsigned flags = 0;
  bool recorded = false;
  Point point;
  SharedClock clock;
  double time = 0;                    // seconds
  struct Capture* capture = nullptr;  // that it was last recorded in
  std::vector<size_t> nodes;
};

struct Node {
  Operation operation;
  std::vector<size_t> after;
};

struct Capture {
  Stream* origin = nullptr;
  CaptureMode mode = kCaptureGlobal;
  uint64_t thread = 0;
  bool active = true;
  std::string invalid_since;  // empty: valid
  std::vector<Node> nodes;
  std::set<Stream*> members;
  bool invalid() const { return !invalid_since.empty(); }
};

struct Graph : Object {
  std::vector<Node> nodes;
};

struct Exec : Object {
  std::vector<Node> nodes;
  Point last;  // where its last launch ends: launches of one graph do not overlap
  SharedClock clock;
};

struct Function : Object {
  Module* module = nullptr;
  CubinKernel kernel;
  int max_dynamic_shared = 0;
  int carveout = -1;
};

struct Module : Object {
  std::map<std::string, Function*> functions;
};

struct Allocation {
  enum Origin { kDevice, kPool, kHost } origin = kDevice;
  uint64_t base = 0, bytes = 0, id = 0;
  void* mapping = nullptr;
  uint64_t mapping_bytes = 0;
  Context* context = nullptr;
  bool live = true;          // in the order of execution
  bool graph_owned = false;  // allocated by a node
  std::string freed_by;      // the call; empty: not freed
  std::vector<Record> records;
  bool freed() const { return !freed_by.empty(); }
};

struct Context : Object {
  bool primary = false;
  int references = 0;
  Result sticky = CUDA_SUCCESS;  // the error that broke it
  Stream* legacy = nullptr;
  std::map<uint64_t, Stream*> per_thread;
  std::vector<Stream*> streams;
};

struct State {
  std::recursive_mutex mutex;
  bool initialized = false;
  bool in_host_function = false;  // which may not call
  uint64_t next_id = 1;
  std::unordered_set<const void*> handles;
  std::vector<Object*> objects;
  std::vector<Stream*> streams;
  std::map<uint64_t, Allocation*> allocations;  // by base; freed ones stay: their addresses are never used again
  uint64_t used = 0;
  std::vector<std::string> left_behind;  // alive when its context was destroyed
  Context* primary = nullptr;
  Context* foreign = nullptr;  // of the fault of this name
  std::vector<Capture*> captures;
  std::map<std::string, uint64_t> calls;
  uint64_t overlaps = 0;  // launches of kernels that might start while the one ahead of them ran
  uint64_t random = 0;
  Clock host;                                     // what the host has waited for
  std::map<uint64_t, CaptureMode> capture_modes;  // of threads that do not forbid all that a capture would not see
};

// Never destroyed: destructors of the caller's thread-locals and statics still call.
State& state();

// The calling thread, from 1.
uint64_t this_thread();

uint64_t next_random();

// Null unless the handle is one of a live object of this kind.
template <class T>
T* find_object(const T* handle, Kind kind) {
  if (!state().handles.contains(handle)) return nullptr;
  auto* object = const_cast<T*>(handle);
  return object->kind == kind && object->alive ? object : nullptr;
}

// A stream of the context; default streams are no objects of the caller's.
Stream* create_stream(Context* context);

template <class T>
T* create(Kind kind, Context* context) {
  auto* object = new T();
  object->kind = kind;
  object->context = context;
  object->id = state().next_id++;
  state().handles.insert(object);
  state().objects.push_back(object);
  return object;
}

inline unsigned long long printable(uint64_t value) { return value; }

}  // namespace driver
