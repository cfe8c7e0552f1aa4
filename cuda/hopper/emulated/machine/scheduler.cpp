#include "hopper/emulated/machine/scheduler.h"

#include <algorithm>
#include <bit>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constexpr uint64_t kDefaultStepLimit = uint64_t{1} << 28;
constexpr uint32_t kStickyPicks = 64;  // how long a sticky warp runs, on average
constexpr uint32_t kRedraw = 64;       // how rarely a priority changes

bool has_work(const Machine& m, Engine engine) {
  switch (engine) {
    case Engine::kLoads:
      return !m.tma.loads.empty() || !m.tma.copies.empty();
    case Engine::kStores:
      return !m.tma.stores.empty();
    case Engine::kTensor:
      return !m.ready_pipes.empty();
    case Engine::kNone:
      break;
  }
  return false;
}

}  // namespace

Policy Policy::draw(Random& random) {
  Policy policy;
  policy.choice = static_cast<Choice>(random.below(3));
  policy.yield_one_in = random.one_in(2) ? 4 : 64;
  const uint32_t engine_one_in[] = {2, 16, 256};
  policy.engine_one_in = engine_one_in[random.below(3)];
  policy.newest_first = random.one_in(4);
  policy.starved = random.one_in(2) ? static_cast<Engine>(random.below(3)) : Engine::kNone;
  return policy;
}

Policy Policy::straight() { return {kUniform, 0, 2, false, Engine::kNone}; }

void Scheduler::maybe_yield(Thread& thread) {
  instructions_ = instructions_ + 1;
  if (policy_.yield_one_in != 0 && machine().random.one_in(policy_.yield_one_in)) thread.fiber.suspend();
}

void Scheduler::park(Thread& thread, Wait wait) {
  thread.wait = wait;
  thread.warp->runnable &= ~(1u << thread.lane());
  thread.fiber.suspend();
}

void Scheduler::park(Thread& thread) {
  thread.warp->runnable &= ~(1u << thread.lane());
  thread.fiber.suspend();
  __builtin_unreachable();
}

void Scheduler::wake(Thread& thread) {
  thread.wait = {};
  Warp& warp = *thread.warp;
  if (warp.runnable == 0 && std::find(runnable_.begin(), runnable_.end(), &warp) == runnable_.end()) {
    runnable_.push_back(&warp);
  }
  warp.runnable |= 1u << thread.lane();
}

void Scheduler::run(Machine& m) {
  const uint64_t limit = m.launch.step_limit != 0 ? m.launch.step_limit : kDefaultStepLimit;
  runnable_.clear();
  sticky_ = nullptr;
  uint32_t alive = 0;
  for (auto& cta : m.ctas) {
    alive += cta->alive;
    for (Thread& thread : cta->threads) wake(thread);
  }
  while (!m.stopped && alive > 0) {
    std::erase_if(runnable_, [](const Warp* warp) { return warp->runnable == 0; });
    if (runnable_.empty()) {
      if (!engine_step(m, true)) return report_without_progress(m, "deadlock: nothing can move");
    } else {
      if (m.random.one_in(policy_.engine_one_in)) engine_step(m, false);
      run_lanes(m, pick(m));
      if (m.switches > limit) return report_without_progress(m, "the step limit is reached: a livelock?");
    }
    alive = 0;
    for (auto& cta : m.ctas) alive += cta->alive;
  }
  while (!m.stopped && engine_step(m, true)) {
  }
}

Warp& Scheduler::pick(Machine& m) {
  const auto any = [&] { return runnable_[m.random.below(static_cast<uint32_t>(runnable_.size()))]; };
  switch (policy_.choice) {
    case Policy::kUniform:
      return *any();
    case Policy::kSticky:
      if (sticky_ == nullptr || sticky_->runnable == 0 || m.random.one_in(kStickyPicks)) sticky_ = any();
      return *sticky_;
    case Policy::kPriority:
      break;
  }
  Warp& first = **std::max_element(runnable_.begin(), runnable_.end(),
                                   [](const Warp* a, const Warp* b) { return a->priority < b->priority; });
  if (m.random.one_in(kRedraw)) first.priority = static_cast<uint32_t>(m.random.next());
  return first;
}

// Every runnable lane once, from a random one on.
void Scheduler::run_lanes(Machine& m, Warp& warp) {
  const uint32_t first = m.random.below(kWarp);
  uint32_t left = std::rotr(warp.runnable, static_cast<int>(first));
  while (left != 0 && !m.stopped) {
    const uint32_t lane = (first + static_cast<uint32_t>(std::countr_zero(left))) % kWarp;
    left &= left - 1;
    if ((warp.runnable >> lane & 1) == 0) continue;
    m.running = &warp.threads[lane];
    m.running->fiber.resume();
    m.running = nullptr;
    ++m.switches;
  }
}

// Lets one engine make one step; false when none has work.
bool Scheduler::engine_step(Machine& m, bool starved_too) {
  Engine ready[3];
  uint32_t count = 0;
  for (Engine engine : {Engine::kLoads, Engine::kStores, Engine::kTensor}) {
    if (has_work(m, engine) && engine != policy_.starved) ready[count++] = engine;
  }
  if (count == 0 && starved_too && has_work(m, policy_.starved)) ready[count++] = policy_.starved;
  if (count == 0) return false;
  switch (ready[m.random.below(count)]) {
    case Engine::kLoads:
      m.tma.load_step(m);
      break;
    case Engine::kStores:
      m.tma.store_step(m);
      break;
    default:
      tensor_step();
      break;
  }
  return true;
}

}  // namespace emu
