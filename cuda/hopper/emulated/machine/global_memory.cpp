#include "hopper/emulated/machine/global_memory.h"

namespace emu {
namespace {

constexpr uint64_t kGranule = 4;

uint64_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

bool holds(const EmuRegion& region, const void* p, uint64_t bytes) {
  const uint64_t base = address(region.base), at = address(p);
  return at >= base && bytes <= region.bytes && at - base <= region.bytes - bytes;
}

}  // namespace

void GlobalMemory::reset(const EmuRegion* regions, uint32_t count, bool track) {
  regions_.clear();
  last_ = 0;
  for (uint32_t i = 0; i < count; ++i) {
    Region region{&regions[i], {}};
    if (track && regions[i].writable) region.writes.resize(granules(regions[i].base, regions[i].bytes));
    regions_.push_back(std::move(region));
  }
}

GlobalMemory::Region* GlobalMemory::find(const void* p, uint64_t bytes) {
  for (size_t i = 0; i < regions_.size(); ++i) {
    const size_t at = (last_ + i) % regions_.size();
    if (!holds(*regions_[at].range, p, bytes)) continue;
    last_ = at;
    return &regions_[at];
  }
  return nullptr;
}

GlobalMemory::Write* GlobalMemory::writes(Region& region, const void* p) {
  if (region.writes.empty()) return nullptr;
  return &region.writes[address(p) / kGranule - address(region.range->base) / kGranule];
}

uint64_t GlobalMemory::granules(const void* p, uint64_t bytes) {
  return bytes == 0 ? 0 : (address(p) + bytes - 1) / kGranule - address(p) / kGranule + 1;
}

}  // namespace emu
