#include "hopper/emulated/machine/wavefronts.h"

#include <algorithm>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constexpr uint32_t kBanks = 32, kWordBytes = 4;
constexpr uint32_t kWavefrontBytes = kBanks * kWordBytes;

// The words that lanes `from` to `to` touch, each once.
std::vector<uint32_t> words_of(const Lanes& lanes, uint32_t from, uint32_t to, uint32_t bytes) {
  std::vector<uint32_t> words;
  for (uint32_t lane = from; lane < to; ++lane) {
    if ((lanes.mask >> lane & 1) == 0) continue;
    for (uint32_t at = 0; at < bytes; at += kWordBytes) words.push_back((lanes.addr[lane] + at) / kWordBytes);
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  return words;
}

}  // namespace

void Wavefronts::add(const Lanes& lanes, uint32_t bytes) {
  const uint32_t group = kWavefrontBytes / bytes;
  for (uint32_t from = 0; from < kWarp; from += group) {
    const std::vector<uint32_t> words = words_of(lanes, from, std::min(kWarp, from + group), bytes);
    uint64_t in_bank[kBanks] = {};
    for (uint32_t word : words) ++in_bank[word % kBanks];
    const uint64_t taken = *std::max_element(in_bank, in_bank + kBanks);
    counts_.shared_wavefronts += taken;
    counts_.shared_conflicts += taken - (words.size() + kBanks - 1) / kBanks;
  }
}

void Wavefronts::add(const Thread& thread, uint16_t site, uint32_t addr, uint32_t bytes) {
  Line& line = lines_[{thread.warp, site}];
  line.bytes = bytes;
  const uint32_t lane = thread.lane();
  const uint32_t index = line.next[lane]++ - line.first;
  if (index >= line.open.size()) line.open.resize(index + 1);
  Lanes& lanes = line.open[index];
  lanes.mask |= 1u << lane;
  lanes.addr[lane] = addr;
  while (!line.open.empty() && line.open.front().mask == thread.warp->lanes) {
    add(line.open.front(), bytes);
    line.open.pop_front();
    ++line.first;
  }
}

void Wavefronts::finish() {
  for (const auto& [key, line] : lines_) {
    for (const Lanes& lanes : line.open) add(lanes, line.bytes);
  }
  lines_.clear();
}

}  // namespace emu
