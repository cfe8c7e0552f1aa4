// What the environment asks for: read once, when the library is loaded.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "driver/faults.h"

namespace driver {

enum class Mode {
  kLazy,    // nothing executes before somebody must wait for it
  kRandom,  // every call may execute an operation of any stream that is ready
  kEager,   // everything executes at once
};

struct Options {
  Mode mode = Mode::kLazy;
  uint64_t seed = 1;
  int multiprocessors = 132;
  int devices = 1;
  int compute_capability = 90;
  int version = 13000;
  bool execute = true;  // run kernels on the emulator
  bool checks = false;  // with the emulator's checks of states and races
  bool strict = false;  // end the process with status 86 when there were problems
  Fault fault = Fault::kNone;
  std::vector<std::string> allowed;  // names of notes that are no problems
  std::string wrong;                 // a variable that has no such value: cuInit fails
};

// Sets the variable of this name; false when it does not take the value.
bool set_option(Options& options, const std::string& name, const std::string& value);

Options& options();

}  // namespace driver
