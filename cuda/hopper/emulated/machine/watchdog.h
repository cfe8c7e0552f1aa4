// Ends a run in which a thread computes without ever executing an instruction of ptx/: the scheduler never gets
// control.
#pragma once
#include <csignal>
#include <ctime>

namespace emu {

struct Machine;

// While it lives, a timer signals this OS thread. Measured in its CPU time, so that a busy host raises no false alarm.
class Watchdog {
 public:
  explicit Watchdog(Machine& machine);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;

 private:
#if defined(__linux__)
  timer_t timer_ = {};
  bool armed_ = false;
#endif
};

}  // namespace emu
