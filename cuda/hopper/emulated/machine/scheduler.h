// Who moves next. One seed draws a policy for the whole run, then every choice.
#pragma once
#include <cstdint>
#include <vector>

namespace emu {

struct Machine;
struct Thread;
struct Warp;
struct Wait;
class Random;

enum class Engine : uint8_t { kLoads, kStores, kTensor, kNone };

struct Policy {
  enum Choice : uint8_t { kUniform, kPriority, kSticky } choice;
  uint32_t yield_one_in;   // a thread lets others run before one instruction in so many
  uint32_t engine_one_in;  // an engine moves although a thread could, before one warp in so many
  bool newest_first;       // engines take the newest transfer, else any
  Engine starved;          // moves only when nothing else can: each effect at its latest legal moment

  static Policy draw(Random& random);
  // Threads run as far as they can: operand traces compare what each does, not when.
  static Policy straight();
};

class Scheduler {
 public:
  explicit Scheduler(Policy policy) : policy_(policy) {}

  const Policy& policy() const { return policy_; }

  // From a fiber.
  void park(Thread& thread, Wait wait);
  void maybe_yield(Thread& thread);
  [[noreturn]] void park(Thread& thread);  // for good
  void wake(Thread& thread);

  // From the launch: until every thread has exited and every store has landed, or the machine has stopped.
  void run(Machine& machine);

  uint64_t instructions() const { return instructions_; }

 private:
  Warp& pick(Machine& machine);
  void run_lanes(Machine& machine, Warp& warp);
  bool engine_step(Machine& machine, bool starved_too);

  Policy policy_;
  std::vector<Warp*> runnable_;
  Warp* sticky_ = nullptr;
  volatile uint64_t instructions_ = 0;  // the watchdog's signal handler reads it
};

}  // namespace emu
