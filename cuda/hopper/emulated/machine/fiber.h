// Fibers: one stack per CUDA thread, and a switch between them and the scheduler.
#pragma once
#include <cstddef>
#include <cstdint>

// Elsewhere ucontext does it, more slowly.
#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_FIBER_ASSEMBLY 1
#else
#define EMU_FIBER_ASSEMBLY 0
#include <ucontext.h>
#endif

namespace emu {

// The stacks of one OS thread, kept from launch to launch. Below each lies a page that may not be touched.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  ~Stacks();

  // Makes room for `count` stacks; false when the system has no memory. What earlier stacks held is lost.
  bool reserve(size_t count);
  uint8_t* bottom(size_t index) const;
  static size_t bytes();

 private:
  uint8_t* memory_ = nullptr;
  size_t count_ = 0;
};

// Runs a function on a stack of its own. `resume` and `suspend` alternate; a suspended fiber may simply be forgotten,
// which is how a fault ends a launch.
class Fiber {
 public:
  using Entry = void (*)(void* argument);

  void prepare(uint8_t* stack, Entry entry, void* argument);
  void resume();   // from the scheduler
  void suspend();  // from the fiber

 private:
  void begin(uint8_t* stack, Entry entry, void* argument);
  void switch_in();
  void switch_out();
  void entered();

#if EMU_FIBER_ASSEMBLY
  void* own_ = nullptr;  // saved stack pointers
  void* scheduler_ = nullptr;
#else
  static void start(uint32_t high, uint32_t low);
  ucontext_t own_, scheduler_;
#endif
  uint8_t* stack_ = nullptr;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  // For the address sanitizer, which has to know whose stack it looks at.
  void* fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_bytes_ = 0;

  friend void run_fiber(Fiber*);
};

}  // namespace emu
