#include "driver/faults.h"

#include <cstring>

#include "driver/options.h"

namespace driver {

bool find_fault(const char* name, Fault& fault) {
  fault = Fault::kNone;
  if (*name == '\0') return true;
#define DRIVER_FAULT(candidate, text) \
  if (std::strcmp(name, text) == 0) fault = Fault::candidate;
  DRIVER_FAULTS(DRIVER_FAULT)
#undef DRIVER_FAULT
  return fault != Fault::kNone;
}

bool planted(Fault fault) { return options().fault == fault; }

}  // namespace driver
