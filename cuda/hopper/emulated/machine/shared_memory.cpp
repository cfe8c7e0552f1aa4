#include "hopper/emulated/machine/shared_memory.h"

#include <algorithm>
#include <cstring>

#include "hopper/emulated/machine/random.h"

namespace emu {

void SharedMemory::reset(uint32_t bytes, Random& random, bool track_races) {
  end_ = kSharedBase + bytes;
  const uint32_t rounded = (end_ + 7) / 8 * 8;
  generic_.resize(rounded);
  async_.resize(rounded);
  for (uint32_t i = 0; i < rounded; i += 8) {
    const uint64_t noise[] = {random.next(), random.next()};
    std::memcpy(&generic_[i], &noise[0], 8);
    std::memcpy(&async_[i], &noise[1], 8);
  }
  state_.assign(rounded, ByteState::kUninitialised);
  names_.clear();
  if (track_races) shadow.reset(rounded);
}

void SharedMemory::set_state(uint32_t addr, uint32_t bytes, ByteState state) {
  std::fill_n(state_.begin() + addr, bytes, state);
}

uint32_t SharedMemory::first_not(ByteState state, uint32_t addr, uint32_t bytes) const {
  const uint64_t eight = 0x0101010101010101u * static_cast<uint64_t>(state);
  uint32_t at = addr;
  for (; at + 8 <= addr + bytes; at += 8) {
    uint64_t found;
    std::memcpy(&found, &state_[at], 8);
    if (found != eight) break;
  }
  while (at < addr + bytes && state_[at] == state) ++at;
  return at;
}

void SharedMemory::publish(uint32_t addr, uint32_t bytes) {
  for (uint32_t at = addr; at < addr + bytes; ++at) {
    if (state_[at] != ByteState::kUnfenced) continue;
    async_[at] = generic_[at];
    state_[at] = ByteState::kWritten;
  }
}

void SharedMemory::describe(Text& text, uint32_t addr) const {
  auto after = names_.upper_bound(addr);
  if (after == names_.begin()) {
    text.add("smem+0x%x", addr - kSharedBase);
    return;
  }
  const auto& [start, name] = *std::prev(after);
  const bool past_mbarrier = state_[start] == ByteState::kMbarrier && addr - start >= 8;
  if (start == addr) {
    text.add("%s[%u]", name.name, name.index);
  } else if (past_mbarrier) {
    text.add("smem+0x%x", addr - kSharedBase);
  } else {
    text.add("smem+0x%x (%s[%u] + 0x%x)", addr - kSharedBase, name.name, name.index, addr - start);
  }
}

}  // namespace emu
