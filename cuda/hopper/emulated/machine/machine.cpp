// Launching clusters, clocks and agents, the end of threads and CTAs.
#include <algorithm>
#include <cstdio>
#include <new>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constinit thread_local Machine* current = nullptr;

// As many as ptxas gives at launch: the register file shared evenly, in units of 8, at most 255.
uint32_t registers_at_launch(const EmuLaunch& launch, uint32_t threads) {
  constexpr uint32_t kRegisterFile = 65536;
  if (launch.registers != 0) return launch.registers;
  return std::min(255u, kRegisterFile / threads / 8 * 8);
}

Stacks& stacks() {
  static thread_local Stacks kept;
  return kept;
}

bool run_body(const Machine& m) {
  try {
    m.kernel.body(m.params);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void run_thread(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  if (!run_body(machine())) fault(thread, "the emulator has no memory left");
  finish_thread(thread);
}

void check_cta_exit(const Thread& last, const Cta& cta) {
  for (const auto& [addr, bar] : cta.mbarriers) {
    if (bar.loads_in_flight != 0) {
      fault(last, "CTA %u exits while a TMA load counted on %s is in flight", cta.index,
            object(last, cta, addr).c_str());
    }
    if (has_bytes_outstanding(bar)) {
      Text state;
      describe_mbarrier(state, cta, addr, bar.phase & 1);
      fault(last, "CTA %u exits while bytes are outstanding on %s", cta.index, state.c_str());
    }
  }
  for (const CopyPiece& piece : machine().tma.copies) {
    if (piece.from != &cta) continue;
    fault(last, "CTA %u exits while a copy out of its shared memory, issued at %s, is in flight", cta.index,
          place(piece.where).c_str());
  }
  if (!machine().check_races) return;
  for (Epoch arrival : cta.remote_arrivals) {
    if (!cta.exited.has(arrival)) {
      fault(last, "CTA %u may exit before the arrival on one of its mbarriers by %s", cta.index,
            describe(arrival).c_str());
    }
  }
}

}  // namespace

Machine& machine() { return *current; }
void set_machine(Machine* machine) { current = machine; }

Thread& enter(Where where) {
  Machine& m = machine();
  Thread& thread = *m.running;
  thread.where = where;
  m.scheduler.maybe_yield(thread);
  return thread;
}

Machine::Machine(const EmuLaunch& launch, const Kernel& kernel, const void* params, EmuReport& report)
    : launch(launch),
      kernel(kernel),
      params(params),
      report(report),
      random(launch.seed),
      check_state(launch.check_state != 0),
      check_races(launch.check_races != 0),
      registers(registers_at_launch(launch, kernel.threads)),
      elected_lane(launch.trace != nullptr ? 0 : random.below(kWarp)),
      shared(kernel.cluster),
      scheduler(launch.trace != nullptr ? Policy::straight() : Policy::draw(random)),
      wavefronts(report.counts) {
  global.reset(launch.regions, launch.region_count, check_state || check_races);
}

void Machine::run() {
  if (!stacks().reserve(size_t{kernel.cluster} * kernel.threads)) {
    report.status = EMU_BAD_LAUNCH;
    std::snprintf(report.message, sizeof report.message, "no memory for the stacks of %u threads",
                  kernel.cluster * kernel.threads);
    return;
  }
  for (uint32_t i = 0; i < launch.grid / kernel.cluster && !stopped; ++i) {
    start_cluster(i);
    try {
      scheduler.run(*this);
    } catch (const Stop&) {
    }
    wavefronts.finish();
  }
}

void Machine::start_cluster(uint32_t number) {
  cluster = number;
  cluster_barrier = {};
  agents.clear();
  ready_pipes.clear();
  ctas.clear();
  for (uint32_t rank = 0; rank < kernel.cluster; ++rank) {
    ctas.push_back(std::make_unique<Cta>());
    ctas.back()->index = number * kernel.cluster + rank;
    start_cta(*ctas.back(), rank);
  }
}

void Machine::start_cta(Cta& cta, uint32_t rank) {
  const uint32_t count = kernel.threads;
  cta.rank = rank;
  cta.smem = &shared[rank];
  cta.smem->reset(launch.smem_bytes, random, check_races);
  cta.alive = count;
  cta.threads = std::vector<Thread>(count);
  cta.warps = std::vector<Warp>((count + kWarp - 1) / kWarp);
  cta.warpgroups = std::vector<Warpgroup>((count + kWarpgroup - 1) / kWarpgroup);
  for (uint32_t i = 0; i < count; ++i) {
    Thread& thread = cta.threads[i];
    Warp& warp = cta.warps[i / kWarp];
    Warpgroup& warpgroup = cta.warpgroups[i / kWarpgroup];
    if (i % kWarp == 0) warp.threads = &thread;
    if (i % kWarpgroup == 0) warpgroup.threads = &thread;
    warp.lanes |= 1u << i % kWarp;
    ++warpgroup.thread_count;
    thread.index = i;
    thread.cta = &cta;
    thread.warp = &warp;
    thread.warpgroup = &warpgroup;
    thread.agent = add_agent({AgentInfo::kThread, &cta, i});
    thread.known.begin(thread.agent);
    thread.fiber.prepare(stacks().bottom(rank * count + i), run_thread, &thread);
  }
  for (Warp& warp : cta.warps) warp.priority = static_cast<uint32_t>(random.next());
  for (uint32_t i = 0; i < cta.warpgroups.size(); ++i) {
    Warpgroup& warpgroup = cta.warpgroups[i];
    warpgroup.cta = &cta;
    warpgroup.index = i;
    warpgroup.registers = registers;
    warpgroup.pipe = add_agent({AgentInfo::kPipe, &cta, i});
  }
}

Agent Machine::add_agent(AgentInfo agent) {
  agents.push_back(agent);
  return static_cast<Agent>(agents.size() - 1);
}

uint16_t Sites::number(Where where) {
  if (sites_[last_].line == where.line && sites_[last_].file == where.file) return last_;
  const uint64_t key = reinterpret_cast<uintptr_t>(where.file) * 31 + static_cast<uint64_t>(where.line);
  const auto [entry, added] = numbers_.try_emplace(key, static_cast<uint16_t>(sites_.size()));
  if (added) sites_.push_back(where);
  return last_ = entry->second;
}

// ---------------------------------------------------------------------------------------------------- clock rules

Epoch now(const Thread& thread) {
  return {thread.agent, machine().sites.number(thread.where), thread.known.of(thread.agent)};
}

void release(Thread& thread, Gathering& gathering) {
  if (!machine().check_races) return;
  gathering.add(thread.known);
  thread.known.count_release();
}

Order finish(Gathering& gathering) { return machine().check_races ? gathering.take() : Order{}; }

void acquire(Thread& thread, const Order& news) { thread.known.learn(news, machine().joiner); }

void acquire(Thread& thread, Agent agent, uint32_t clock) {
  if (!machine().check_races) return;
  VectorClock news;
  news.raise(agent, static_cast<int32_t>(clock));
  const auto snapshot = std::make_shared<const VectorClock>(std::move(news));
  acquire(thread, {snapshot, snapshot});
}

// ----------------------------------------------------------------------------------------------- special registers

EmuCounts& counts() { return machine().report.counts; }
uint32_t thread_idx() { return machine().running->index; }
uint32_t cta_idx() { return machine().running->cta->index; }
uint32_t grid_dim() { return machine().launch.grid; }
uint32_t cluster_rank() { return machine().running->cta->rank; }

// ----------------------------------------------------------------------------------------------------------- exits

void finish_thread(Thread& thread) {
  Machine& m = machine();
  if (!thread.entered_grid && m.launch.trace == nullptr) {
    fault(thread, "exits without griddepcontrol.wait: the grid could end before those ahead of it");
  }
  if (!thread.flights.empty()) fault(thread, "exits while the tensor core owns one of its accumulators");
  if (!thread.flights_of_a.empty()) fault(thread, "exits while the tensor core owns registers of A");
  const uint32_t committed = thread.wgmma_groups.empty() ? 0 : thread.wgmma_groups.back();
  if (committed != thread.wgmmas) fault(thread, "exits with a wgmma that no wgmma_commit_group covers");
  for (size_t group = thread.bulk_read_waited; group < thread.bulk_groups.size(); ++group) {
    const bool open = group + 1 == thread.bulk_groups.size();
    const uint32_t stores = thread.bulk_groups[group].stores;
    if (stores != 0 && open) fault(thread, "exits with a TMA store that no bulk_commit_group covers");
    if (stores != 0) fault(thread, "exits without having waited until its TMA stores have read shared memory");
  }
  Cta& cta = *thread.cta;
  thread.exited = true;
  thread.warp->exited |= 1u << thread.lane();
  --cta.alive;
  release(thread, cta.exited);
  settle_named_barrier(cta);
  leave_cluster_barrier(thread);
  if (cta.alive == 0) {
    check_cta_exit(thread, cta);
    ++counts().ctas;
    counts().busiest_cta_columns = std::max(counts().busiest_cta_columns, cta.wgmma_columns);
  }
  m.scheduler.park(thread);
}

}  // namespace emu
