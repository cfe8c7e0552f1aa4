// Transfers that TMA has yet to make.
#pragma once
#include <cstdint>
#include <vector>

#include "hopper/emulated/machine/clock.h"
#include "hopper/emulated/machine/machine.h"
#include "hopper/emulated/machine/tensor_map.h"

namespace emu {

struct Cta;
struct Machine;
struct Mbarrier;
struct Thread;

struct Box {
  const TensorMapCode* map;
  int32_t coordinates[kMaxRank];
};

// Some rows of a load: each piece lands at its own time.
struct LoadPiece {
  Box box;
  Cta* cta;
  uint32_t dst;
  Mbarrier* bar;
  uint32_t phase;  // of the barrier when the load was issued
  uint32_t first_row, end_row;
  const Thread* issuer;
  Where where;
};

// A store reads shared memory at one moment and writes global memory at a later one.
struct Store {
  Box box;
  uint32_t src;
  Thread* issuer;
  uint32_t group;  // number of its bulk group
  Where where;
  bool has_read = false;
  std::vector<uint8_t> rows;
};

// Some bytes of a copy from one CTA's shared memory to another's: read and written at the same moment.
struct CopyPiece {
  const Cta* from;
  uint32_t src;
  Cta* cta;
  uint32_t dst;
  Mbarrier* bar;
  uint32_t phase;
  uint32_t bytes;
  const Thread* issuer;
  Where where;
};

struct TmaEngine {
  std::vector<LoadPiece> loads;
  std::vector<CopyPiece> copies;
  std::vector<Store> stores;

  void load_step(Machine& machine);  // of a load or a copy
  void store_step(Machine& machine);

 private:
  void copy_step(Machine& machine);
};

}  // namespace emu
