// Graphs, made by captures, and their launches.
#include <utility>

#include "driver/options.h"
#include "driver/queue.h"

namespace driver {
namespace {

// The nodes, each after those it depends on; in random mode any such order.
std::vector<size_t> order(const std::vector<Node>& nodes) {
  std::vector<size_t> waits_for(nodes.size()), ready, ordered;
  for (size_t node = 0; node < nodes.size(); ++node) {
    waits_for[node] = nodes[node].after.size();
    if (waits_for[node] == 0) ready.push_back(node);
  }
  while (!ready.empty()) {
    const size_t pick = options().mode == Mode::kRandom ? next_random() % ready.size() : 0;
    const size_t done = ready[pick];
    ready.erase(ready.begin() + static_cast<ptrdiff_t>(pick));
    ordered.push_back(done);
    for (size_t node = done + 1; node < nodes.size(); ++node) {
      for (size_t before : nodes[node].after) {
        if (before == done && --waits_for[node] == 0) ready.push_back(node);
      }
    }
  }
  return ordered;
}

}  // namespace

DRIVER_API Result cuGraphInstantiateWithFlags(Exec** handle, Graph* graph_handle, unsigned long long flags) {
  Call call("cuGraphInstantiateWithFlags");
  const Graph* graph = call.graph(graph_handle);
  if (graph == nullptr || !call.stores_into(handle)) return call.result;
  // Freeing memory on relaunch, uploading and node priorities change nothing here; a launch from the device does.
  constexpr unsigned long long kDeviceLaunch = 4, kAll = 15;
  if (flags > kAll) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags %llu", flags);
  if ((flags & kDeviceLaunch) != 0)
    return call.fail(CUDA_ERROR_NOT_SUPPORTED, "launches from the device are not modelled");
  auto* exec = create<Exec>(Kind::kExec, graph->context);
  exec->nodes = graph->nodes;
  *handle = exec;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuGraphLaunch(Exec* handle, Stream* stream_handle) {
  Call call("cuGraphLaunch");
  Exec* exec = call.exec(handle);
  if (exec == nullptr) return call.result;
  Stream* stream = call.stream(stream_handle);
  if (stream == nullptr) return call.result;
  for (const Node& node : exec->nodes) {
    for (const Function* function : node.operation.functions) {
      if (function->alive) continue;
      return call.fail(CUDA_ERROR_INVALID_HANDLE, "node %s was unloaded", node.operation.what.c_str());
    }
  }
  bool first = true;
  for (const size_t node : order(exec->nodes)) {
    Operation operation = exec->nodes[node].operation;
    if (std::exchange(operation.may_overlap, false)) ++state().overlaps;  // as its graph says, not this order
    if (first && exec->last.stream != nullptr) {
      if (exec->last.stream != stream) operation.after.push_back(exec->last);
      operation.clock = exec->clock;
    }
    first = false;
    if (const Result result = enqueue(call, stream, std::move(operation)); result != CUDA_SUCCESS) return result;
  }
  if (stream->capture != nullptr) return CUDA_SUCCESS;
  exec->last = {stream, stream->enqueued};
  exec->clock = stream->clock;
  return CUDA_SUCCESS;
}

DRIVER_API Result cuGraphUpload(Exec* handle, Stream* stream) {
  Call call("cuGraphUpload");
  if (call.exec(handle) != nullptr) call.stream(stream);
  return call.result;
}

DRIVER_API Result cuGraphExecDestroy(Exec* handle) {
  Call call("cuGraphExecDestroy");
  Exec* exec = call.exec(handle);
  if (exec != nullptr) exec->alive = false;
  return call.result;
}

DRIVER_API Result cuGraphDestroy(Graph* handle) {
  Call call("cuGraphDestroy");
  Graph* graph = call.graph(handle);
  if (graph != nullptr) graph->alive = false;
  return call.result;
}

}  // namespace driver
