// Global memory: the caller's regions, nothing else, and who wrote what in this launch.
#pragma once
#include <cstdint>
#include <vector>

#include "hopper/emulated/machine/clock.h"
#include "hopper/emulated/machine/emu.h"

namespace emu {

class GlobalMemory {
 public:
  // A write of this launch. Clusters run one after another but are not ordered: one's writes race with another's.
  struct Write {
    uint32_t cluster = 0;  // counted from 1, 0: never written
    uint32_t cta = 0;
    Epoch epoch;
  };

  struct Region {
    const EmuRegion* range;
    std::vector<Write> writes;  // per four bytes
  };

  void reset(const EmuRegion* regions, uint32_t count, bool track);

  // The region that holds the whole range, null when there is none.
  Region* find(const void* p, uint64_t bytes);

  // The last write to each four bytes of a range that `find` has found; empty unless writes are tracked.
  static Write* writes(Region& region, const void* p);
  static uint64_t granules(const void* p, uint64_t bytes);

 private:
  std::vector<Region> regions_;
  size_t last_ = 0;  // most accesses hit the region of the one before
};

}  // namespace emu
