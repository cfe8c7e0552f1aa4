// Vector clocks: who knows how much of whom.
//
// An agent is whatever touches memory on its own: a thread, the wgmma pipe of a warpgroup, the TMA loads that one
// mbarrier counts, the bulk stores of one thread. Its clock is its natural counter: releases of a thread, wgmmas of a
// pipe, phases of a barrier, bulk groups. So what a wait teaches is that one entry has grown.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace emu {

using Agent = uint16_t;

// A moment of one agent, and the source line that acted then. Clock 0 stands for "never".
struct Epoch {
  Agent agent = 0;
  uint16_t site = 0;  // see `Sites`
  int32_t clock = 0;

  bool operator==(const Epoch&) const = default;
};

class VectorClock {
 public:
  int32_t of(Agent agent) const { return agent < clocks_.size() ? clocks_[agent] : 0; }
  void raise(Agent agent, int32_t clock);
  void join(const VectorClock& other);
  bool covers(const VectorClock& other) const;

 private:
  static constexpr size_t kBlock = 16;  // whole blocks, so that the compiler vectorises `join`

  void grow(size_t agents) { clocks_.resize((agents + kBlock - 1) / kBlock * kBlock); }

  std::vector<int32_t> clocks_;
};

// A clock that no longer changes. Threads that went through the same barriers know the same and share one, so that
// learning something is mostly a comparison of two pointers.
using Snapshot = std::shared_ptr<const VectorClock>;

// What lies before a moment, in shared and in global memory. The same object but where an arrival from another CTA has
// ordered shared memory alone; the global one never knows more.
struct Order {
  Snapshot shared, global;

  bool operator==(const Order&) const = default;
};

// Joins snapshots and remembers the latest results: the lanes of a warp ask for the same one, one after the other.
class Joiner {
 public:
  Snapshot join(const Snapshot& a, const Snapshot& b);

 private:
  struct Entry {
    Snapshot a, b, joined;
  };
  std::array<Entry, 64> latest_;
};

// What a thread knows: the order it has learnt, and its own count of releases.
class Knowledge {
 public:
  void begin(Agent self) { self_ = self, releases_ = 1; }
  int32_t of(Agent agent) const { return of(agent, others_.shared); }
  bool has(Epoch epoch) const { return epoch.clock <= of(epoch.agent); }
  bool has_global(Epoch epoch) const { return epoch.clock <= of(epoch.agent, others_.global); }

  void learn(const Order& news, Joiner& joiner);
  // The same from an mbarrier, which hands over to the async proxy too.
  void learn_handed_over(const Order& news, Joiner& joiner);
  bool was_handed(Epoch epoch) const { return handed_over_ != nullptr && epoch.clock <= handed_over_->of(epoch.agent); }
  void count_release() { ++releases_; }

 private:
  int32_t of(Agent agent, const Snapshot& others) const {
    return agent == self_ ? releases_ : others ? others->of(agent) : 0;
  }

  friend class Gathering;
  Agent self_ = 0;
  int32_t releases_ = 0;
  Order others_;
  Snapshot handed_over_;
};

// What those who arrive at a barrier know.
class Gathering {
 public:
  void add(const Knowledge& knowledge);
  void raise(Agent agent, int32_t clock);
  bool has(Epoch epoch) const { return epoch.clock <= shared_.of(epoch.agent); }
  bool empty() const { return empty_; }
  // Ends the gathering and begins the next one.
  Order take();

 private:
  VectorClock shared_, global_;
  bool split_ = false;  // `global_` is in use: somebody knows less of global memory
  Order last_;          // joined last: the next to arrive mostly shares it
  bool empty_ = true;
};

}  // namespace emu
