// The state of a running launch. Private to the emulator.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "hopper/emulated/machine/clock.h"
#include "hopper/emulated/machine/fiber.h"
#include "hopper/emulated/machine/global_memory.h"
#include "hopper/emulated/machine/machine.h"
#include "hopper/emulated/machine/random.h"
#include "hopper/emulated/machine/scheduler.h"
#include "hopper/emulated/machine/shared_memory.h"
#include "hopper/emulated/machine/tensor_core.h"
#include "hopper/emulated/machine/tma.h"
#include "hopper/emulated/machine/wavefronts.h"

namespace emu {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kWarpgroup = 128;

struct Cta;
struct Warp;

// Why a thread stands still; `a` and `b` say what for.
struct Wait {
  enum Kind : uint8_t {
    kNothing,
    kMbarrier,      // address, parity
    kNamedBarrier,  // id
    kClusterBarrier,
    kWarp,
    kWgmma,      // number of the last wgmma it needs
    kBulk,       // number of the last group it needs, 1: only its reads
    kRegisters,  // count
  };
  Kind kind = kNothing;
  uint32_t a = 0, b = 0;
};

// ---------------------------------------------------------------------------------------------------- tensor core

// D of one or more chained wgmmas, from the first issue until all threads have collected their registers.
struct Accumulator {
  uint32_t columns = 0;
  uint32_t first = 0;      // number of the wgmma that began it
  uint32_t collected = 0;  // threads that have their registers back
  bool in_use = false;
  std::vector<float> values;  // [64, columns]
};

// A thread's view of one: its array, poisoned until the wait.
struct Flight {
  float* d;
  uint32_t registers;
  uint32_t last;  // number of the latest wgmma on it
  Accumulator* accumulator;
};

// A thread's registers of A, poisoned until the wait.
struct FlightOfA {
  uint32_t* a;
  uint32_t values[4];
  uint32_t last;  // number of the latest wgmma that reads them
};

struct Wgmma {
  Operands operands;
  uint64_t desc_a, desc_b;  // A in registers: desc_a is 0
  bool accumulate;
  Accumulator* d;
  const Thread* first;  // the thread that issued it first, for reports
  Where where;
  uint32_t arrived = 0;
  std::vector<uint16_t> a{};  // A from registers: BF16 [64, 16]
};

// Four warps and the pipe that runs their wgmmas in order.
struct Warpgroup {
  Cta* cta = nullptr;
  uint32_t index = 0;
  Thread* threads = nullptr;
  uint32_t thread_count = 0;
  Agent pipe = 0;
  std::deque<Wgmma> queue;  // from number `completed` + 1 on
  uint32_t completed = 0;
  std::vector<std::unique_ptr<Accumulator>> accumulators;
  std::vector<Thread*> waiters;
  Snapshot completion;  // of the first `completion_of` wgmmas
  uint32_t completion_of = 0;
  std::vector<int32_t> common_clock;  // scratch of `Past`

  uint32_t registers = 0;  // per thread
  uint32_t wanted_registers = 0;
  uint32_t register_arrivals = 0;
  std::vector<Thread*> register_waiters;
};

// -------------------------------------------------------------------------------------------------------- threads

// Bulk stores of one group, and how many have not yet read shared memory or not yet written global memory.
struct BulkGroup {
  uint32_t stores = 0, reading = 0, writing = 0;
};

struct Thread {
  uint32_t index = 0;  // in its CTA
  Cta* cta = nullptr;
  Warp* warp = nullptr;
  Warpgroup* warpgroup = nullptr;
  Fiber fiber;
  Where where;  // of its current or latest instruction
  Wait wait;
  bool exited = false;

  Agent agent = 0;
  Knowledge known;

  struct Range {
    uint32_t addr, bytes;
  };
  std::vector<Range> unfenced;           // stores since its last fence.proxy.async
  std::vector<int32_t> fences;           // its clock at each fence.proxy.async, ascending
  std::vector<uint32_t> unfenced_inits;  // mbarriers since its last fence.mbarrier_init

  bool wgmma_fenced = false;
  uint32_t wgmmas = 0;                 // issued
  uint32_t wgmmas_awaited = 0;         // covered by a wait
  std::vector<uint32_t> wgmma_groups;  // number of the last wgmma of each group
  std::vector<Flight> flights;
  std::vector<FlightOfA> flights_of_a;

  std::vector<BulkGroup> bulk_groups{1};  // the last is open; group g has number g + 1
  uint32_t bulk_read_waited = 0;          // groups that a wait has shown to have read
  uint32_t bulk_written = 0;              // groups known to have written
  Agent bulk_reads = 0, bulk_writes = 0;  // agents, once it stores

  bool entered_grid = false;  // by griddepcontrol.wait
  bool cluster_arrived = false;
  uint32_t cluster_generation = 0;
  uint32_t sequence = 0;  // made-up values delivered, in trace mode

  uint32_t lane() const { return index % kWarp; }
};

struct Warp {
  Thread* threads = nullptr;
  uint32_t lanes = 0;  // mask of those that exist
  uint32_t runnable = 0;
  uint32_t exited = 0;
  uint32_t priority = 0;

  // The collective under way.
  const char* collective = nullptr;
  Where where;
  uint32_t arrived = 0;
  uint32_t addr[kWarp];
  uint32_t in[kWarp][4];
  uint32_t out[kWarp][4];
};

// ------------------------------------------------------------------------------------------------------- barriers

// The eight bytes of an mbarrier hold its counts (see mbarrier.cpp); this is what no hardware stores.
struct Mbarrier {
  Cta* cta = nullptr;
  uint32_t addr = 0;
  Epoch init;
  bool init_fenced = false;
  uint32_t phase = 0;  // phases completed
  uint32_t loads_in_flight = 0;
  Agent loads = 0;
  Gathering arriving, arriving_remote;  // in this phase, from this CTA and from others
  Order done, done_cluster;             // what the phase before taught to waiters of either scope

  // Of `loads`: 1 from the init on, and one more with every phase.
  int32_t clock() const { return static_cast<int32_t>(phase + 1); }

  struct Waiter {
    Thread* thread;
    Scope scope;
  };
  std::vector<Waiter> waiters;
};

struct NamedBarrier {
  uint32_t wanted = 0, arrived = 0;
  Gathering arriving;
  std::vector<Thread*> waiters;
};

struct ClusterBarrier {
  uint32_t arrived = 0;
  uint32_t generation = 0;
  Gathering arriving;
  Order done;
  std::vector<Thread*> waiters;
};

// ------------------------------------------------------------------------------------------------ CTA and machine

struct Cta {
  uint32_t index = 0, rank = 0;
  SharedMemory* smem = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::unordered_map<uint32_t, Mbarrier> mbarriers;
  NamedBarrier named[16];
  uint32_t alive = 0;
  uint32_t register_pool = 0;
  uint64_t wgmma_columns = 0;          // of all its wgmmas
  Gathering exited;                    // what its exited threads knew
  std::vector<Epoch> remote_arrivals;  // the latest per thread, on barriers of this CTA
};

struct AgentInfo {
  enum Kind : uint8_t { kThread, kPipe, kLoads, kBulkReads, kBulkWrites } kind;
  const Cta* cta;
  uint32_t index;  // thread, warpgroup, or address of the mbarrier
};

// Source lines as small numbers.
class Sites {
 public:
  uint16_t number(Where where);
  Where operator[](uint16_t site) const { return sites_[site]; }

 private:
  std::vector<Where> sites_{Where{}};
  std::unordered_map<uint64_t, uint16_t> numbers_;
  uint16_t last_ = 0;
};

struct Machine {
  Machine(const EmuLaunch& launch, const Kernel& kernel, const void* params, EmuReport& report);

  const EmuLaunch& launch;
  const Kernel& kernel;
  const void* params;  // aligned copy
  EmuReport& report;
  Random random;
  bool check_state, check_races;
  uint32_t registers;     // per thread at launch
  uint32_t elected_lane;  // the leader of every warp, throughout the run

  std::vector<SharedMemory> shared;
  GlobalMemory global;
  Scheduler scheduler;
  TmaEngine tma;
  Wavefronts wavefronts;
  uint64_t switches = 0;  // of fibers
  std::vector<Warpgroup*> ready_pipes;  // whose next wgmma all threads have issued

  // The cluster that runs.
  uint32_t cluster = 0;
  std::vector<std::unique_ptr<Cta>> ctas;
  ClusterBarrier cluster_barrier;
  std::vector<AgentInfo> agents;
  Sites sites;
  Joiner joiner;

  Thread* running = nullptr;
  bool stopped = false;  // a fault is in `report`

  void run();
  Agent add_agent(AgentInfo agent);

 private:
  void start_cluster(uint32_t number);
  void start_cta(Cta& cta, uint32_t rank);
};

// The launch of this OS thread.
Machine& machine();
void set_machine(Machine* machine);

// Begins an instruction: notes where, and now and then lets others run.
Thread& enter(Where where);

// ---------------------------------------------------------------------------------------------------- clock rules

// What `thread` does now, as an epoch.
Epoch now(const Thread& thread);
// Adds what the thread knows to what others will learn; its later accesses are not part of it.
void release(Thread& thread, Gathering& gathering);
// Ends a gathering; null unless races are checked.
Order finish(Gathering& gathering);
void acquire(Thread& thread, const Order& news);
// Teaches the thread that an asynchronous agent has come so far.
void acquire(Thread& thread, Agent agent, uint32_t clock);

// --------------------------------------------------------------------------------------------------------- faults

struct Stop {};  // thrown to leave an engine; never through a fiber

[[noreturn, gnu::format(printf, 2, 3)]] void fault(const Thread& thread, const char* format, ...);
// An engine's fault carries the line that issued its work.
[[noreturn, gnu::format(printf, 3, 4)]] void fault_at(const Thread& thread, Where where, const char* format, ...);
// "smem+0x10", "full[3] of CTA 1": an object in shared memory, as a thread of maybe another CTA names it.
Text object(const Thread& viewer, const Cta& cta, uint32_t addr);
Text place(Where where);
Text describe(Epoch epoch);
[[noreturn]] void report_race(const Thread& thread, Where where, const char* what, const Cta& cta,
                              const Conflict& conflict);
// Ends the run, and says what each thread waits for.
void report_without_progress(Machine& machine, const char* what);

// ----------------------------------------------------------------------------------------- between the .cpp files

// Bounds and alignment, then the rules of a read by the async proxy (TMA stores, wgmma).
void check_range(const Thread& thread, Where where, const Cta& cta, uint32_t addr, uint32_t bytes, uint32_t alignment,
                 const char* what);
void check_async_read(const Thread& thread, Where where, const Cta& cta, uint32_t addr, uint32_t bytes,
                      const char* what);

// Faults unless the thread has waited for the grids before.
void check_entered(const Thread& thread, const char* what);
// The range as part of a region; a fault if no region allows it.
GlobalMemory::Region& global_range(const Thread& thread, const void* p, uint64_t bytes, bool write, const char* what);
void record_global_write(const Thread& thread, GlobalMemory::Region& region, const void* p, uint64_t bytes, Epoch mine,
                         const char* what);

Mbarrier& find_mbarrier(Thread& thread, Cta& cta, uint32_t bar, const char* what);
void check_async_use(const Thread& thread, const Mbarrier& bar, const char* what);
void complete_tx(const Thread& thread, Where where, Mbarrier& bar, uint32_t bytes);
bool has_bytes_outstanding(const Mbarrier& bar);
void describe_mbarrier(Text& text, const Cta& cta, uint32_t bar, uint32_t parity);

// A collective of the warp: waits until all lanes are at the same one; the last to come runs `together`.
void join_warp(Thread& thread, const char* name);
void leave_warp(Thread& thread);
template <class Together>
void meet_warp(Thread& thread, const char* name, Together together) {
  join_warp(thread, name);
  if (thread.warp->arrived != thread.warp->lanes) return machine().scheduler.park(thread, {Wait::kWarp, 0, 0});
  together();
  leave_warp(thread);
}

void tensor_step();
void finish_thread(Thread& thread);

// As a thread exits, barriers that count the living may complete.
void settle_named_barrier(Cta& cta);
void leave_cluster_barrier(const Thread& thread);

}  // namespace emu
