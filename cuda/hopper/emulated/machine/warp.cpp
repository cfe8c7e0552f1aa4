// Collectives of a warp. Lanes wait until all 32 have come; the last one does the work.
#include <algorithm>

#include "hopper/emulated/machine/model.h"

namespace emu {

void join_warp(Thread& thread, const char* name) {
  Warp& warp = *thread.warp;
  if (warp.exited != 0) fault(thread, "%s in a warp of which lanes %08x have exited", name, warp.exited);
  if (warp.arrived == 0) {
    warp.collective = name;
    warp.where = thread.where;
  } else if (warp.collective != name || warp.where.line != thread.where.line) {
    fault(thread, "divergent warp: this lane is at %s, lanes %08x are at %s in %s", name, warp.arrived,
          place(warp.where).c_str(), warp.collective);
  }
  warp.arrived |= 1u << thread.lane();
}

void leave_warp(Thread& thread) {
  Warp& warp = *thread.warp;
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    Thread& other = warp.threads[lane];
    if ((warp.arrived >> lane & 1) != 0 && &other != &thread) machine().scheduler.wake(other);
  }
  warp.arrived = 0;
}

// The only one that orders memory: afterwards every lane knows what all knew.
void sync_warp(Where where) {
  Thread& thread = enter(where);
  Warp& warp = *thread.warp;
  meet_warp(thread, "syncwarp", [&] {
    ++counts().warp_barriers;
    Gathering lanes;
    for (uint32_t lane = 0; lane < kWarp; ++lane) release(warp.threads[lane], lanes);
    const Order all = finish(lanes);
    for (uint32_t lane = 0; lane < kWarp; ++lane) acquire(warp.threads[lane], all);
  });
}

bool elect(Where where) {
  Thread& thread = enter(where);
  meet_warp(thread, "elect", [] { ++counts().elections; });
  return thread.lane() == machine().elected_lane;
}

uint32_t shuffle(uint32_t value, uint32_t source_lane, const char* name, Where where) {
  Thread& thread = enter(where);
  Warp& warp = *thread.warp;
  const uint32_t lane = thread.lane();
  warp.in[lane][0] = value;
  warp.addr[lane] = source_lane % kWarp;
  meet_warp(thread, name, [&] {
    ++counts().shuffles;
    for (uint32_t to = 0; to < kWarp; ++to) warp.out[to][0] = warp.in[warp.addr[to]][0];
  });
  return warp.out[lane][0];
}

uint32_t reduce(Reduction reduction, uint32_t value, Where where) {
  Thread& thread = enter(where);
  Warp& warp = *thread.warp;
  const uint32_t lane = thread.lane();
  warp.in[lane][0] = value;
  meet_warp(thread, "redux", [&] {
    ++counts().reductions;
    uint32_t result = warp.in[0][0];
    for (uint32_t from = 1; from < kWarp; ++from) {
      const uint32_t other = warp.in[from][0];
      switch (reduction) {
        case Reduction::kAdd: result += other; break;
        case Reduction::kMin: result = std::min(result, other); break;
        case Reduction::kMax: result = std::max(result, other); break;
      }
    }
    for (uint32_t to = 0; to < kWarp; ++to) warp.out[to][0] = result;
  });
  return warp.out[lane][0];
}

}  // namespace emu
