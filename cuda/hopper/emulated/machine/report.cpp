// What a launch says when a kernel breaks a rule.
#include <cstring>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

const char* base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash != nullptr ? slash + 1 : path;
}

void add_thread(Text& text, const Thread& thread) {
  text.add("CTA %u warp %u lane %u", thread.cta->index, thread.index / kWarp, thread.lane());
}

// The first fault wins. From a fiber the run is left by never resuming it, from an engine by an exception.
[[noreturn]] void stop(const Text& text) {
  Machine& m = machine();
  if (!m.stopped) {
    m.stopped = true;
    m.report.status = EMU_FAULT;
    std::snprintf(m.report.message, sizeof m.report.message, "%s", text.c_str());
  }
  if (m.running == nullptr) throw Stop{};
  m.scheduler.park(*m.running);
}

[[noreturn]] void stop_at(const Thread& thread, Where where, const char* format, va_list arguments) {
  Text text;
  text.add("%s: ", machine().kernel.name);
  add_thread(text, thread);
  text.add(" at %s: ", place(where).c_str()).add_list(format, arguments);
  stop(text);
}

void describe_wait(Text& text, const Thread& thread) {
  const Cta& cta = *thread.cta;
  switch (thread.wait.kind) {
    case Wait::kNothing:
      text.add("runs");
      break;
    case Wait::kMbarrier:
      text.add("waits for ");
      describe_mbarrier(text, cta, thread.wait.a, thread.wait.b);
      break;
    case Wait::kNamedBarrier:
      text.add("waits at barrier %u (%u of %u arrived)", thread.wait.a, cta.named[thread.wait.a].arrived,
               thread.wait.a == 0 ? cta.alive : cta.named[thread.wait.a].wanted);
      break;
    case Wait::kClusterBarrier:
      text.add("waits at the cluster barrier (%u arrived)", machine().cluster_barrier.arrived);
      break;
    case Wait::kWarp:
      text.add("waits in %s for the other lanes (arrived %08x, exited %08x)", thread.warp->collective,
               thread.warp->arrived, thread.warp->exited);
      break;
    case Wait::kWgmma:
      text.add("waits for wgmma %u of its warpgroup (%u done, %u threads have issued the next)", thread.wait.a,
               thread.warpgroup->completed, thread.warpgroup->queue.empty() ? 0 : thread.warpgroup->queue[0].arrived);
      break;
    case Wait::kBulk:
      text.add("waits for bulk group %u", thread.wait.a);
      break;
    case Wait::kRegisters:
      text.add("waits for %u registers (%u in the pool, %u of %u threads have asked)", thread.wait.a, cta.register_pool,
               thread.warpgroup->register_arrivals, kWarpgroup);
      break;
  }
}

bool same_wait(const Thread& a, const Thread& b) {
  return a.where.line == b.where.line && a.wait.kind == b.wait.kind && a.wait.a == b.wait.a && a.wait.b == b.wait.b;
}

// Threads of a CTA that wait for the same thing at the same line share a line of the report.
void describe_waits(Text& text, Machine& m) {
  constexpr uint32_t kGroups = 16;
  for (const auto& cta : m.ctas) {
    const Thread* first[kGroups];
    uint32_t members[kGroups], groups = 0;
    for (const Thread& thread : cta->threads) {
      if (thread.exited) continue;
      uint32_t group = 0;
      while (group < groups && !same_wait(*first[group], thread)) ++group;
      if (group == kGroups) continue;
      if (group == groups) first[groups] = &thread, members[groups++] = 0;
      ++members[group];
    }
    for (uint32_t group = 0; group < groups; ++group) {
      text.add("\n  ");
      add_thread(text, *first[group]);
      if (members[group] > 1) text.add(" and %u more", members[group] - 1);
      text.add(" at %s ", place(first[group]->where).c_str());
      describe_wait(text, *first[group]);
    }
  }
}

}  // namespace

Text place(Where where) {
  Text text;
  text.add("%s:%d", base_name(where.file), where.line);
  return text;
}

Text object(const Thread& viewer, const Cta& cta, uint32_t addr) {
  Text text;
  cta.smem->describe(text, addr);
  if (viewer.cta != &cta) text.add(" of CTA %u", cta.index);
  return text;
}

Text describe(Epoch epoch) {
  const AgentInfo& agent = machine().agents[epoch.agent];
  Text text;
  switch (agent.kind) {
    case AgentInfo::kThread:
      break;
    case AgentInfo::kPipe:
      text.add("wgmma of CTA %u warpgroup %u", agent.cta->index, agent.index);
      break;
    case AgentInfo::kLoads:
      text.add("the TMA load that counts on ");
      agent.cta->smem->describe(text, agent.index);
      text.add(" of CTA %u", agent.cta->index);
      break;
    case AgentInfo::kBulkReads:
    case AgentInfo::kBulkWrites:
      text.add("the TMA store of ");
      break;
  }
  if (agent.kind == AgentInfo::kThread || agent.kind >= AgentInfo::kBulkReads) {
    add_thread(text, agent.cta->threads[agent.index]);
  }
  return text.add(" at %s", place(machine().sites[epoch.site]).c_str());
}

void fault(const Thread& thread, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  stop_at(thread, thread.where, format, arguments);
}

void fault_at(const Thread& thread, Where where, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  stop_at(thread, where, format, arguments);
}

void report_race(const Thread& thread, Where where, const char* what, const Cta& cta, const Conflict& conflict) {
  const Text at = object(thread, cta, conflict.addr), other = describe(conflict.other);
  if (conflict.known) {
    fault_at(thread, where,
             "%s over %s follows the read by %s, which was handed over by no mbarrier and no fence.proxy.async", what,
             at.c_str(), other.c_str());
  }
  fault_at(thread, where, "race: %s of %s is not ordered after the %s by %s", what, at.c_str(),
           conflict.other_wrote ? "write" : "read", other.c_str());
}

void report_without_progress(Machine& m, const char* what) {
  if (m.stopped) return;
  m.stopped = true;
  m.report.status = EMU_FAULT;
  Text text;
  text.add("%s: %s", m.kernel.name, what);
  describe_waits(text, m);
  std::snprintf(m.report.message, sizeof m.report.message, "%s", text.c_str());
}

}  // namespace emu
