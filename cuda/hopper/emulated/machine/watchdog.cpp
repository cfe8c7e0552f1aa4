#include "hopper/emulated/machine/watchdog.h"

#if defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constexpr uint32_t kDefaultMilliseconds = 10'000;

constinit thread_local Machine* watched = nullptr;
constinit thread_local uint64_t instructions_seen = 0;

// No instruction since the last signal, and a thread runs: it is in kernel code, not in the emulator's, whose every
// instruction is short. So no lock is held, and its fiber can be left for good.
void on_timer(int) {
  Machine* m = watched;
  if (m == nullptr || m->running == nullptr) return;
  const uint64_t instructions = m->scheduler.instructions();
  if (instructions != instructions_seen) {
    instructions_seen = instructions;
    return;
  }
  report_without_progress(*m, "the watchdog: a thread computes without executing an instruction; the last ones were");
  m->running->fiber.suspend();
}

const int kSignal = SIGRTMIN + 7;

// False when the program uses the signal itself: then there is no watchdog.
bool install_handler() {
  struct sigaction action = {}, before = {};
  if (sigaction(kSignal, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) return false;
  action.sa_handler = on_timer;
  action.sa_flags = SA_RESTART | SA_NODEFER;  // not deferred: the handler may never return
  sigemptyset(&action.sa_mask);
  return sigaction(kSignal, &action, nullptr) == 0;
}

}  // namespace

Watchdog::Watchdog(Machine& machine) {
  static const bool installed = install_handler();
  if (!installed) return;
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kSignal;
#if defined(sigev_notify_thread_id)
  event.sigev_notify_thread_id = static_cast<pid_t>(syscall(SYS_gettid));
#else
  event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
#endif
  if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_) != 0) return;
  armed_ = true;
  watched = &machine;
  instructions_seen = UINT64_MAX;
  const uint32_t limit = machine.launch.watchdog_ms != 0 ? machine.launch.watchdog_ms : kDefaultMilliseconds;
  const uint32_t half = limit / 2 + 1;  // two signals without an instruction between them
  const timespec period = {half / 1000, static_cast<long>(half % 1000) * 1'000'000};
  const itimerspec times = {period, period};
  timer_settime(timer_, 0, &times, nullptr);
}

Watchdog::~Watchdog() {
  if (armed_) timer_delete(timer_);
  watched = nullptr;
}

}  // namespace emu

#else

namespace emu {

// Without such timers a run that never returns is the caller's to kill.
Watchdog::Watchdog(Machine&) {}
Watchdog::~Watchdog() = default;

}  // namespace emu

#endif
