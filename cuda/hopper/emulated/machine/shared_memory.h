// The shared memory of one CTA: two views of its bytes, a state per byte, names for reports.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "hopper/emulated/machine/shadow.h"
#include "hopper/emulated/machine/text.h"

namespace emu {

class Random;

// On sm_90 the first KiB belongs to the system: address 0 and small negative slips are out of bounds.
constexpr uint32_t kSharedBase = 1024;

enum class ByteState : uint8_t {
  kUninitialised,
  kWritten,   // readable by threads, TMA and the tensor core
  kUnfenced,  // written by a thread: not yet visible to the async proxy
  kInFlight,  // a TMA load will write it
  kMbarrier,  // part of an mbarrier object
};

class SharedMemory {
 public:
  void reset(uint32_t bytes, Random& random, bool track_races);

  bool contains(uint32_t addr, uint32_t bytes) const {
    return addr >= kSharedBase && addr <= end_ && bytes <= end_ - addr;
  }

  // What threads see, and what TMA and the tensor core see. Pointers are to the byte at `addr`.
  uint8_t* generic(uint32_t addr) { return &generic_[addr]; }
  uint8_t* async(uint32_t addr) { return &async_[addr]; }

  void set_state(uint32_t addr, uint32_t bytes, ByteState state);
  // The first byte of the range that is not in the given state; addr + bytes when there is none.
  uint32_t first_not(ByteState state, uint32_t addr, uint32_t bytes) const;
  ByteState state(uint32_t addr) const { return state_[addr]; }

  // Copies those bytes to the async view that are still unfenced.
  void publish(uint32_t addr, uint32_t bytes);

  void name(uint32_t addr, const char* name, uint32_t index) { names_[addr] = {name, index}; }
  void describe(Text& text, uint32_t addr) const;

  Shadow shadow;

 private:
  struct Name {
    const char* name;
    uint32_t index;
  };

  uint32_t end_ = kSharedBase;
  std::vector<uint8_t> generic_, async_;
  std::vector<ByteState> state_;
  std::map<uint32_t, Name> names_;
};

}  // namespace emu
