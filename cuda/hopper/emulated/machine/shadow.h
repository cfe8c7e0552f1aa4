// The race detector's memory of shared memory: per four bytes the last write and the reads since, as epochs.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "hopper/emulated/machine/clock.h"

namespace emu {

struct Warpgroup;
struct Thread;

// What an access is ordered after: all that its thread knows, or, for a wgmma, what all 128 threads know.
class Past {
 public:
  explicit Past(const Thread& thread);
  explicit Past(Warpgroup& warpgroup);
  // Of a write by the async proxy, which a thread has asked for.
  static Past of_async_write(const Thread& thread);
  bool contains(Epoch epoch) {
    return epoch.clock == 0 || (thread_ != nullptr ? thread_->has(epoch) : all_know(epoch));
  }
  // Whether a write may follow this read, which is known. What a thread has read, the async proxy overwrites only when an
  // mbarrier has handed it over, or the reader has fenced: it knows nothing of the order of instructions and of barriers of
  // threads.
  bool lets_overwrite(Epoch read) const;

 private:
  bool all_know(Epoch epoch);  // the 128 threads

  bool async_write_ = false;
  const Knowledge* thread_ = nullptr;
  const Warpgroup* warpgroup_ = nullptr;
  std::vector<int32_t>* common_ = nullptr;  // least knowledge of the 128 threads per agent, as far as asked for
};

// An earlier access that the new one is not ordered after.
struct Conflict {
  uint32_t addr;
  Epoch other;
  bool other_wrote;
  bool known = false;  // it is ordered, but for the async proxy
};

class Shadow {
 public:
  static constexpr uint32_t kGranule = 4;

  void reset(uint32_t bytes);
  // Both record the access and return the first conflict. `addr` and `bytes` are multiples of four.
  std::optional<Conflict> read(uint32_t addr, uint32_t bytes, Epoch mine, Past& past);
  std::optional<Conflict> write(uint32_t addr, uint32_t bytes, Epoch mine, Past& past);

 private:
  static constexpr uint32_t kInlineReads = 2;

  struct Cell {
    Epoch write;
    Epoch reads[kInlineReads];
    uint32_t more = 0;  // index into `more_reads_`, 0: none
  };

  void record_read(Cell& cell, Epoch mine, Past& past);
  std::vector<Epoch>& more_reads(Cell& cell);

  std::vector<Cell> cells_;
  std::vector<std::vector<Epoch>> more_reads_;
  std::vector<uint32_t> free_more_;
};

}  // namespace emu
