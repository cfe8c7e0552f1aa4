// How many wavefronts the accesses of threads to shared memory take. A model: of counts, never of time.
//
// Shared memory has 32 banks, neighbours in words of four bytes. A wavefront serves one word of each bank, to all lanes that
// ask for it. The lanes of an instruction are served 128 bytes at a time: 32 lanes with four bytes each, 16 with eight, 8
// with sixteen. What such a group takes beyond the wavefronts that its words would fill are conflicts.
//
// Lanes do not run together here: the n-th accesses that the lanes of a warp make at one line of the kernel are taken for
// one instruction.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <utility>

struct EmuCounts;

namespace emu {

struct Thread;
struct Warp;

// Addresses by lane, of those in the mask.
struct Lanes {
  uint32_t mask = 0;
  uint32_t addr[32];
};

class Wavefronts {
 public:
  explicit Wavefronts(EmuCounts& counts) : counts_(counts) {}

  // Of one lane.
  void add(const Thread& thread, uint16_t site, uint32_t addr, uint32_t bytes);
  // Of all lanes that take part.
  void add(const Lanes& lanes, uint32_t bytes);
  // The warps have ended: instructions that not all of their lanes executed are whole now.
  void finish();

 private:
  // One line's instructions of a warp, from the first one on that lanes are still to come to.
  struct Line {
    uint32_t bytes = 0, first = 0;
    uint32_t next[32] = {};  // by lane
    std::deque<Lanes> open;
  };

  EmuCounts& counts_;
  std::map<std::pair<const Warp*, uint16_t>, Line> lines_;
};

}  // namespace emu
