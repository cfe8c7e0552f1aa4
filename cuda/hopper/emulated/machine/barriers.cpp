// Barriers of CTA and cluster, the grid among others, and the register pool.
#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constexpr uint32_t kBarriers = 16;

void wake_all(std::vector<Thread*>& waiters, const Order& news) {
  for (Thread* waiter : waiters) {
    acquire(*waiter, news);
    machine().scheduler.wake(*waiter);
  }
  waiters.clear();
}

Order open_barrier(NamedBarrier& barrier) {
  const Order news = finish(barrier.arriving);
  wake_all(barrier.waiters, news);
  barrier.arrived = barrier.wanted = 0;
  ++counts().named_barriers;
  return news;
}

void settle_cluster_barrier() {
  Machine& m = machine();
  ClusterBarrier& barrier = m.cluster_barrier;
  uint32_t alive = 0;
  for (const auto& cta : m.ctas) alive += cta->alive;
  if (barrier.arrived == 0 || barrier.arrived < alive) return;
  barrier.arrived = 0;
  ++barrier.generation;
  ++counts().cluster_barriers;
  barrier.done = finish(barrier.arriving);
  wake_all(barrier.waiters, barrier.done);
}

}  // namespace

// ------------------------------------------------------------------------------------------------- named barriers

void named_barrier(uint32_t id, uint32_t threads, bool wait, Where where) {
  Thread& thread = enter(where);
  Cta& cta = *thread.cta;
  const bool whole_cta = threads == 0;
  if (id >= kBarriers) fault(thread, "barrier %u: the ids are 0 to 15", id);
  if (threads % kWarp != 0 || threads > cta.threads.size()) {
    fault(thread, "barrier %u for %u threads: not a multiple of 32 up to %zu", id, threads, cta.threads.size());
  }
  NamedBarrier& barrier = cta.named[id];
  const uint32_t wanted = whole_cta ? cta.alive : threads;
  if (barrier.arrived != 0 && !whole_cta && barrier.wanted != wanted) {
    fault(thread, "barrier %u for %u threads, while others use it for %u", id, wanted, barrier.wanted);
  }
  barrier.wanted = wanted;
  ++barrier.arrived;
  release(thread, barrier.arriving);
  if (barrier.arrived < wanted) {
    if (!wait) return;
    barrier.waiters.push_back(&thread);
    return machine().scheduler.park(thread, {Wait::kNamedBarrier, id, 0});
  }
  const Order news = open_barrier(barrier);
  if (wait) acquire(thread, news);
}

// Barrier 0 without a count waits for the threads that have not exited.
void settle_named_barrier(Cta& cta) {
  NamedBarrier& barrier = cta.named[0];
  if (barrier.arrived != 0 && barrier.arrived == cta.alive) open_barrier(barrier);
}

// ------------------------------------------------------------------------------------------------ cluster barrier

// A relaxed arrival teaches nothing but the mbarriers that the thread has initialised and fenced.
void cluster_arrive(bool relaxed, Where where) {
  Thread& thread = enter(where);
  ClusterBarrier& barrier = machine().cluster_barrier;
  if (thread.cluster_arrived) fault(thread, "barrier.cluster.arrive twice without a wait between");
  thread.cluster_arrived = true;
  thread.cluster_generation = barrier.generation;
  if (!relaxed) release(thread, barrier.arriving);
  for (const auto& [addr, bar] : thread.cta->mbarriers) {
    if (relaxed && bar.init_fenced && bar.init.agent == thread.agent) barrier.arriving.raise(bar.loads, 1);
  }
  ++barrier.arrived;
  settle_cluster_barrier();
}

void cluster_wait(Where where) {
  Thread& thread = enter(where);
  ClusterBarrier& barrier = machine().cluster_barrier;
  if (!thread.cluster_arrived) fault(thread, "barrier.cluster.wait without an arrive");
  thread.cluster_arrived = false;
  if (thread.cluster_generation != barrier.generation) return acquire(thread, barrier.done);
  barrier.waiters.push_back(&thread);
  machine().scheduler.park(thread, {Wait::kClusterBarrier, 0, 0});
}

void leave_cluster_barrier(const Thread& thread) {
  ClusterBarrier& barrier = machine().cluster_barrier;
  if (thread.cluster_arrived && thread.cluster_generation == barrier.generation) --barrier.arrived;
  settle_cluster_barrier();
}

// ----------------------------------------------------------------------------------------------------------- grids

void grid_dependency_wait(Where where) { enter(where).entered_grid = true; }

// There is none to let in.
void grid_launch_dependents(Where where) { enter(where); }

void check_entered(const Thread& thread, const char* what) {
  if (thread.entered_grid) return;
  fault(thread, "%s before griddepcontrol.wait: a grid ahead of this one may still be running", what);
}

// --------------------------------------------------------------------------------------------------- register pool
// The pool holds what was given back since the launch, not what the launch left over: the stricter reading.

namespace {

// Gives the warpgroup what all its threads have asked for, if the pool has it.
bool grant_registers(Cta& cta, Warpgroup& warpgroup) {
  if (warpgroup.register_arrivals != kWarpgroup) return false;
  const uint32_t wanted = warpgroup.wanted_registers * kWarpgroup;
  const uint32_t available = cta.register_pool + warpgroup.registers * kWarpgroup;
  if (wanted > available) return false;
  cta.register_pool = available - wanted;
  warpgroup.registers = warpgroup.wanted_registers;
  warpgroup.register_arrivals = 0;
  for (Thread* waiter : warpgroup.register_waiters) machine().scheduler.wake(*waiter);
  warpgroup.register_waiters.clear();
  return true;
}

}  // namespace

void set_registers(uint32_t count, bool increase, Where where) {
  Thread& thread = enter(where);
  Warpgroup& warpgroup = *thread.warpgroup;
  const char* name = increase ? "setmaxnreg.inc" : "setmaxnreg.dec";
  if (warpgroup.thread_count != kWarpgroup) fault(thread, "%s in an incomplete warpgroup", name);
  if (count % 8 != 0 || count < 24 || count > 256) {
    fault(thread, "%s %u: not a multiple of 8 in 24 to 256", name, count);
  }
  if (increase ? count < warpgroup.registers : count > warpgroup.registers) {
    fault(thread, "%s %u in a warpgroup that has %u", name, count, warpgroup.registers);
  }
  if (warpgroup.register_arrivals != 0 && warpgroup.wanted_registers != count) {
    fault(thread, "%s %u, while other threads of the warpgroup ask for %u", name, count, warpgroup.wanted_registers);
  }
  warpgroup.wanted_registers = count;
  ++warpgroup.register_arrivals;
  if (grant_registers(*thread.cta, warpgroup)) {
    // What it gave back may be what others wait for.
    for (Warpgroup& other : thread.cta->warpgroups) grant_registers(*thread.cta, other);
    return;
  }
  warpgroup.register_waiters.push_back(&thread);
  machine().scheduler.park(thread, {Wait::kRegisters, count, 0});
}

}  // namespace emu
