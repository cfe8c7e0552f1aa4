#include "hopper/emulated/machine/shadow.h"

#include <algorithm>

#include "hopper/emulated/machine/model.h"

namespace emu {

Past::Past(const Thread& thread) : thread_(&thread.known) {}

Past::Past(Warpgroup& warpgroup) : warpgroup_(&warpgroup), common_(&warpgroup.common_clock) { common_->clear(); }

Past Past::of_async_write(const Thread& thread) {
  Past past(thread);
  past.async_write_ = true;
  return past;
}

bool Past::lets_overwrite(Epoch read) const {
  if (!async_write_ || read.clock == 0 || thread_->was_handed(read)) return true;
  const AgentInfo& agent = machine().agents[read.agent];
  if (agent.kind != AgentInfo::kThread) return true;
  // A fence behind the read, of which the writer knows.
  const std::vector<int32_t>& fences = agent.cta->threads[agent.index].fences;
  const auto fence = std::lower_bound(fences.begin(), fences.end(), read.clock);
  return fence != fences.end() && *fence < thread_->of(read.agent);
}

bool Past::all_know(Epoch epoch) {
  if (epoch.agent >= common_->size()) common_->resize(epoch.agent + 1, -1);
  int32_t& common = (*common_)[epoch.agent];
  if (common < 0) {
    common = warpgroup_->threads[0].known.of(epoch.agent);
    for (uint32_t i = 1; i < kWarpgroup; ++i) common = std::min(common, warpgroup_->threads[i].known.of(epoch.agent));
  }
  return epoch.clock <= common;
}

void Shadow::reset(uint32_t bytes) {
  cells_.assign(bytes / kGranule, Cell{});
  more_reads_.assign(1, {});
  free_more_.clear();
}

std::optional<Conflict> Shadow::read(uint32_t addr, uint32_t bytes, Epoch mine, Past& past) {
  Epoch known;  // neighbours mostly have the same history
  for (uint32_t i = addr / kGranule; i < (addr + bytes) / kGranule; ++i) {
    Cell& cell = cells_[i];
    if (cell.write != known) {
      if (!past.contains(cell.write)) return Conflict{i * kGranule, cell.write, true};
      known = cell.write;
    }
    if (cell.reads[0].clock == 0 || cell.reads[0].agent == mine.agent) {
      cell.reads[0] = mine;
    } else {
      record_read(cell, mine, past);
    }
  }
  return {};
}

std::optional<Conflict> Shadow::write(uint32_t addr, uint32_t bytes, Epoch mine, Past& past) {
  Epoch known_write, known_reads[kInlineReads];
  for (uint32_t i = addr / kGranule; i < (addr + bytes) / kGranule; ++i) {
    Cell& cell = cells_[i];
    if (cell.write != known_write) {
      if (!past.contains(cell.write)) return Conflict{i * kGranule, cell.write, true};
      known_write = cell.write;
    }
    for (uint32_t r = 0; r < kInlineReads; ++r) {
      if (cell.reads[r] == known_reads[r]) continue;
      if (!past.contains(cell.reads[r])) return Conflict{i * kGranule, cell.reads[r], false};
      if (!past.lets_overwrite(cell.reads[r])) return Conflict{i * kGranule, cell.reads[r], false, true};
      known_reads[r] = cell.reads[r];
    }
    if (cell.more != 0) {
      for (Epoch other : more_reads_[cell.more]) {
        if (!past.contains(other)) return Conflict{i * kGranule, other, false};
        if (!past.lets_overwrite(other)) return Conflict{i * kGranule, other, false, true};
      }
      free_more_.push_back(cell.more);
    }
    cell = {mine, {}, 0};
  }
  return {};
}

// Replaces a read that this one makes redundant (the same agent's, or one that it is ordered after), else adds.
void Shadow::record_read(Cell& cell, Epoch mine, Past& past) {
  const auto redundant = [&](Epoch other) {
    return other.clock == 0 || other.agent == mine.agent || past.contains(other);
  };
  for (Epoch& other : cell.reads) {
    if (redundant(other)) {
      other = mine;
      return;
    }
  }
  std::vector<Epoch>& more = more_reads(cell);
  for (Epoch& other : more) {
    if (redundant(other)) {
      other = mine;
      return;
    }
  }
  more.push_back(mine);
}

std::vector<Epoch>& Shadow::more_reads(Cell& cell) {
  if (cell.more == 0) {
    if (free_more_.empty()) {
      free_more_.push_back(static_cast<uint32_t>(more_reads_.size()));
      more_reads_.emplace_back();
    }
    cell.more = free_more_.back();
    free_more_.pop_back();
    more_reads_[cell.more].clear();
  }
  return more_reads_[cell.more];
}

}  // namespace emu
