// Vector clocks: who knows how much of whom.
//
// An agent is whatever touches memory on its own: a thread, the wgmma pipe of a warpgroup, the TMA loads that one
// mbarrier counts, the bulk stores of one thread. Its clock is its natural counter: synchronising operations of a
// thread, wgmmas of a pipe, phases of a barrier, bulk groups. A wait therefore just raises one entry.
#pragma once
#include <algorithm>
#include <cstdint>
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
  bool knows(Epoch epoch) const { return epoch.clock <= of(epoch.agent); }

  void raise(Agent agent, int32_t clock) {
    if (agent >= clocks_.size()) grow(agent + 1);
    clocks_[agent] = std::max(clocks_[agent], clock);
  }

  void join(const VectorClock& other) {
    if (other.clocks_.size() > clocks_.size()) grow(other.clocks_.size());
    int32_t* __restrict mine = clocks_.data();
    const int32_t* __restrict theirs = other.clocks_.data();
    for (size_t i = 0; i < other.clocks_.size(); i += kBlock) {
      for (size_t j = i; j < i + kBlock; ++j) mine[j] = mine[j] > theirs[j] ? mine[j] : theirs[j];
    }
  }

  void clear() { std::fill(clocks_.begin(), clocks_.end(), 0); }

 private:
  static constexpr size_t kBlock = 16;  // whole blocks, so that the compiler vectorises `join`

  void grow(size_t agents) { clocks_.resize((agents + kBlock - 1) / kBlock * kBlock); }

  std::vector<int32_t> clocks_;
};

}  // namespace emu
