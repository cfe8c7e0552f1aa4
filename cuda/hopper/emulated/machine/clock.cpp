#include "hopper/emulated/machine/clock.h"

#include <utility>

namespace emu {

void VectorClock::raise(Agent agent, int32_t clock) {
  if (agent >= clocks_.size()) grow(size_t{agent} + 1);
  clocks_[agent] = std::max(clocks_[agent], clock);
}

void VectorClock::join(const VectorClock& other) {
  if (other.clocks_.size() > clocks_.size()) grow(other.clocks_.size());
  int32_t* __restrict mine = clocks_.data();
  const int32_t* __restrict theirs = other.clocks_.data();
  for (size_t i = 0; i < other.clocks_.size(); i += kBlock) {
    for (size_t j = i; j < i + kBlock; ++j) mine[j] = mine[j] > theirs[j] ? mine[j] : theirs[j];
  }
}

bool VectorClock::covers(const VectorClock& other) const {
  for (size_t i = 0; i < other.clocks_.size(); ++i) {
    if (other.clocks_[i] > of(static_cast<Agent>(i))) return false;
  }
  return true;
}

// Returns `a` or `b` itself when it covers the other: after a barrier all share one snapshot again.
Snapshot Joiner::join(const Snapshot& a, const Snapshot& b) {
  const size_t hash = reinterpret_cast<uintptr_t>(a.get()) / 64 * 31 + reinterpret_cast<uintptr_t>(b.get()) / 64;
  Entry& entry = latest_[hash % latest_.size()];
  if (entry.a == a && entry.b == b) return entry.joined;
  entry = {a, b, nullptr};
  if (b->covers(*a)) return entry.joined = b;
  if (a->covers(*b)) return entry.joined = a;
  VectorClock joined = *a;
  joined.join(*b);
  return entry.joined = std::make_shared<const VectorClock>(std::move(joined));
}

void Knowledge::learn(const Order& news, Joiner& joiner) {
  const auto learn = [&](Snapshot& known, const Snapshot& more) {
    if (more == nullptr || more == known) return;
    known = known == nullptr ? more : joiner.join(known, more);
  };
  const bool one = news.shared == news.global && others_.shared == others_.global;
  learn(others_.shared, news.shared);
  if (one) {
    others_.global = others_.shared;
  } else {
    learn(others_.global, news.global);
  }
}

void Knowledge::learn_handed_over(const Order& news, Joiner& joiner) {
  learn(news, joiner);
  if (news.shared == nullptr || news.shared == handed_over_) return;
  handed_over_ = handed_over_ == nullptr ? news.shared : joiner.join(handed_over_, news.shared);
}

void Gathering::add(const Knowledge& knowledge) {
  const Order& others = knowledge.others_;
  empty_ = false;
  if (!split_ && others.shared != others.global) {
    global_ = shared_;
    split_ = true;
  }
  if (others != last_) {
    if (others.shared != nullptr) shared_.join(*others.shared);
    if (split_ && others.global != nullptr) global_.join(*others.global);
    last_ = others;
  }
  raise(knowledge.self_, knowledge.releases_);
}

void Gathering::raise(Agent agent, int32_t clock) {
  shared_.raise(agent, clock);
  if (split_) global_.raise(agent, clock);
}

Order Gathering::take() {
  const auto freeze = [](VectorClock& clock) {
    return std::make_shared<const VectorClock>(std::exchange(clock, {}));
  };
  const Snapshot shared = freeze(shared_);
  const bool one = !split_ || global_.covers(*shared);
  const Order order{shared, one ? shared : freeze(global_)};
  *this = {};
  return order;
}

}  // namespace emu
