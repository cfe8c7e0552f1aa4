// Transfers that TMA has yet to make.
#pragma once
#include <cstdint>
#include <vector>

#include "emu/clock.h"
#include "emu/machine.h"
#include "emu/tensor_map.h"

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

struct TmaEngine {
  std::vector<LoadPiece> loads;
  std::vector<Store> stores;

  void load_step(Machine& machine);
  void store_step(Machine& machine);
};

}  // namespace emu
