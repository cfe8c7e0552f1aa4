// mbarriers. The eight bytes in shared memory hold the counts, as in hardware:
//
//   bits  0-19  arrivals pending in this phase
//   bits 20-39  arrivals expected per phase
//   bits 40-60  bytes expected and not yet landed, signed: bytes may land before they are expected
//   bit  63     parity of the phase
#include <cstring>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constexpr uint32_t kMaxCount = (1 << 20) - 1;

struct Word {
  uint32_t pending, expected;
  int32_t tx;
  uint32_t parity;
};

Word read_word(const Cta& cta, uint32_t addr) {
  uint64_t bits;
  std::memcpy(&bits, cta.smem->generic(addr), sizeof bits);
  const int32_t tx = static_cast<int32_t>(static_cast<uint32_t>(bits >> 40) << 11) >> 11;
  return {static_cast<uint32_t>(bits & kMaxCount), static_cast<uint32_t>(bits >> 20 & kMaxCount), tx,
          static_cast<uint32_t>(bits >> 63)};
}

void write_word(const Cta& cta, uint32_t addr, const Word& word) {
  const uint64_t tx = static_cast<uint32_t>(word.tx) & ((1u << 21) - 1);
  const uint64_t bits =
      word.pending | uint64_t{word.expected} << 20 | tx << 40 | static_cast<uint64_t>(word.parity) << 63;
  std::memcpy(cta.smem->generic(addr), &bits, sizeof bits);
}

void learn(Thread& thread, const Mbarrier& bar, Scope scope) {
  thread.known.learn_handed_over(scope == Scope::kCluster ? bar.done_cluster : bar.done, machine().joiner);
}

// Arrivals from other CTAs are seen at cluster scope only, and order shared memory alone.
void gather(Mbarrier& bar) {
  if (!machine().check_races) return;
  bar.arriving.raise(bar.loads, bar.clock());
  bar.done = bar.done_cluster = bar.arriving.take();
  if (bar.arriving_remote.empty()) return;
  bar.done_cluster.shared = machine().joiner.join(bar.done.shared, bar.arriving_remote.take().shared);
}

// Stores the word; when nothing is pending, begins the next phase and wakes the waiters.
void settle(Mbarrier& bar, Word word) {
  if (word.pending == 0 && word.tx == 0) {
    word.pending = word.expected;
    word.parity ^= 1;
    ++bar.phase;
    ++counts().mbarrier_phases;
    gather(bar);
    for (const Mbarrier::Waiter& waiter : bar.waiters) {
      learn(*waiter.thread, bar, waiter.scope);
      machine().scheduler.wake(*waiter.thread);
    }
    bar.waiters.clear();
  }
  write_word(*bar.cta, bar.addr, word);
}

void add_tx(const Thread& thread, Where where, const Mbarrier& bar, Word& word, int64_t bytes) {
  const int64_t tx = word.tx + bytes;
  if (tx > int64_t{kMaxCount} || tx < -int64_t{kMaxCount}) {
    fault_at(thread, where, "the tx-count of %s leaves its range of +-%u bytes: %lld",
             object(thread, *bar.cta, bar.addr).c_str(), kMaxCount, static_cast<long long>(tx));
  }
  word.tx = static_cast<int32_t>(tx);
}

void arrive(Thread& thread, Mbarrier& bar, uint32_t expect_bytes) {
  Word word = read_word(*bar.cta, bar.addr);
  if (word.pending == 0) {
    fault(thread, "arrival on %s, whose phase %u has none pending (%d bytes missing)",
          object(thread, *bar.cta, bar.addr).c_str(), bar.phase, word.tx);
  }
  add_tx(thread, thread.where, bar, word, expect_bytes);
  --word.pending;
  ++counts().mbarrier_arrivals;
  release(thread, thread.cta == bar.cta ? bar.arriving : bar.arriving_remote);
  settle(bar, word);
}

void remember_remote(Cta& cta, Epoch arrival) {
  for (Epoch& other : cta.remote_arrivals) {
    if (other.agent != arrival.agent) continue;
    other = arrival;
    return;
  }
  cta.remote_arrivals.push_back(arrival);
}

}  // namespace

void mbarrier_init(uint32_t bar, uint32_t count, Where where) {
  Thread& thread = enter(where);
  Cta& cta = *thread.cta;
  check_range(thread, where, cta, bar, 8, 8, "mbarrier.init");
  if (count == 0 || count > kMaxCount) fault(thread, "mbarrier.init with a count of %u, not 1 to %u", count, kMaxCount);
  const auto [entry, added] = cta.mbarriers.try_emplace(bar);
  Mbarrier& state = entry->second;
  if (!added) fault(thread, "mbarrier.init of %s, which is an mbarrier already", object(thread, cta, bar).c_str());
  if (cta.smem->first_not(ByteState::kInFlight, bar, 8) != bar) {
    fault(thread, "mbarrier.init of %s, where a TMA load is in flight", object(thread, cta, bar).c_str());
  }
  state.cta = &cta;
  state.addr = bar;
  state.init = now(thread);
  state.loads = machine().add_agent({AgentInfo::kLoads, &cta, bar});
  acquire(thread, state.loads, static_cast<uint32_t>(state.clock()));
  if (machine().check_races) {
    Past past(thread);
    if (const auto conflict = cta.smem->shadow.write(bar, 8, state.init, past)) {
      report_race(thread, where, "mbarrier.init", cta, *conflict);
    }
  }
  cta.smem->set_state(bar, 8, ByteState::kMbarrier);
  write_word(cta, bar, {count, count, 0, 0});
  thread.unfenced_inits.push_back(bar);
}

void fence_mbarrier_init(Where where) {
  Thread& thread = enter(where);
  for (uint32_t bar : thread.unfenced_inits) thread.cta->mbarriers.at(bar).init_fenced = true;
  thread.unfenced_inits.clear();
}

void mbarrier_arrive(uint32_t bar, Where where) {
  Thread& thread = enter(where);
  arrive(thread, find_mbarrier(thread, *thread.cta, bar, "arrival"), 0);
}

void mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes, Where where) {
  Thread& thread = enter(where);
  arrive(thread, find_mbarrier(thread, *thread.cta, bar, "arrival"), bytes);
}

void mbarrier_arrive_cluster(uint32_t bar, uint32_t rank, Where where) {
  Thread& thread = enter(where);
  Machine& m = machine();
  if (rank >= m.ctas.size()) fault(thread, "mapa of CTA %u in a cluster of %zu", rank, m.ctas.size());
  Cta& cta = *m.ctas[rank];
  if (cta.alive == 0) {
    fault(thread, "arrival on %s of CTA %u, which has exited", object(thread, cta, bar).c_str(), cta.index);
  }
  Mbarrier& state = find_mbarrier(thread, cta, bar, "arrival");
  if (&cta != thread.cta) {
    check_async_use(thread, state, "another CTA");
    remember_remote(cta, now(thread));
  }
  arrive(thread, state, 0);
}

void mbarrier_wait(uint32_t bar, uint32_t parity, Scope scope, Where where) {
  Thread& thread = enter(where);
  Mbarrier& state = find_mbarrier(thread, *thread.cta, bar, "wait");
  ++counts().mbarrier_waits;
  if (parity > 1) fault(thread, "wait for parity %u of %s", parity, object(thread, *thread.cta, bar).c_str());
  if (read_word(*thread.cta, bar).parity != parity) return learn(thread, state, scope);
  state.waiters.push_back({&thread, scope});
  machine().scheduler.park(thread, {Wait::kMbarrier, bar, parity});
}

Mbarrier& find_mbarrier(Thread& thread, Cta& cta, uint32_t bar, const char* what) {
  check_range(thread, thread.where, cta, bar, 8, 8, what);
  const auto entry = cta.mbarriers.find(bar);
  if (entry == cta.mbarriers.end()) {
    fault(thread, "%s on the mbarrier at %s, which is used before mbarrier.init", what,
          object(thread, cta, bar).c_str());
  }
  Past past(thread);
  if (machine().check_races && !past.contains({entry->second.loads, 0, 1})) {
    fault(thread, "race: %s on %s is not ordered after its mbarrier.init by %s", what, object(thread, cta, bar).c_str(),
          describe(entry->second.init).c_str());
  }
  return entry->second;
}

void check_async_use(const Thread& thread, const Mbarrier& bar, const char* what) {
  if (!machine().check_state || bar.init_fenced) return;
  fault(thread, "%s uses %s, but no fence.mbarrier_init followed its mbarrier.init by %s", what,
        object(thread, *bar.cta, bar.addr).c_str(), describe(bar.init).c_str());
}

void complete_tx(const Thread& thread, Where where, Mbarrier& bar, uint32_t bytes) {
  Word word = read_word(*bar.cta, bar.addr);
  add_tx(thread, where, bar, word, -int64_t{bytes});
  settle(bar, word);
}

void describe_mbarrier(Text& text, const Cta& cta, uint32_t bar, uint32_t parity) {
  const Mbarrier& state = cta.mbarriers.at(bar);
  const Word word = read_word(cta, bar);
  cta.smem->describe(text, bar);
  text.add(" parity %u (phase %u, %u of %u arrivals missing, ", parity, state.phase, word.pending, word.expected);
  if (word.tx >= 0) text.add("%d bytes missing, ", word.tx);
  if (word.tx < 0) text.add("%d bytes more than expect_tx asked for, ", -word.tx);
  text.add("%u TMA loads in flight)", state.loads_in_flight);
}

bool has_bytes_outstanding(const Mbarrier& bar) { return read_word(*bar.cta, bar.addr).tx != 0; }

}  // namespace emu
