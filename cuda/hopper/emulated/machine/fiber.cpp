#include "hopper/emulated/machine/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;  // red zones make frames larger
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// Below so many stacks of a thread of the OS lies a page that must not be touched: each takes two of the 65530 mappings that
// Linux allows a process. Of more stacks every second has one, or every third, ...: all run the same kernel, and what
// overflows one overflows others.
constexpr size_t kGuards = 1024;

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t pitch() { return kStackBytes + page_bytes(); }

}  // namespace

Stacks::~Stacks() {
  if (memory_ != nullptr) munmap(memory_, count_ * pitch());
}

bool Stacks::reserve(size_t count) {
  if (count <= count_) return true;
  if (memory_ != nullptr) munmap(memory_, count_ * pitch());
  memory_ = nullptr;
  count_ = 0;
  void* memory =
      mmap(nullptr, count * pitch(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = static_cast<uint8_t*>(memory);
  count_ = count;
  const size_t step = (count + kGuards - 1) / kGuards;
  for (size_t i = 0; i < count; i += step) mprotect(memory_ + i * pitch(), page_bytes(), PROT_NONE);
  return true;
}

uint8_t* Stacks::bottom(size_t index) const { return memory_ + index * pitch() + page_bytes(); }

size_t Stacks::bytes() { return kStackBytes; }

void Fiber::begin(uint8_t* stack, Entry entry, void* argument) {
  stack_ = stack;
  entry_ = entry;
  argument_ = argument;
  fake_stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, kStackBytes);  // an abandoned fiber may have left frames
#endif
}

void run_fiber(Fiber* fiber) {
  fiber->entered();
  fiber->entry_(fiber->argument_);
  __builtin_trap();  // an entry never returns: it suspends for good
}

#if defined(__SANITIZE_ADDRESS__)

// The sanitizer wants to know before and after each switch whose stack it is on.
void Fiber::resume() {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
  switch_in();
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void Fiber::suspend() {
  __sanitizer_start_switch_fiber(&fake_stack_, scheduler_stack_, scheduler_bytes_);
  switch_out();
  entered();
}

void Fiber::entered() { __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack_, &scheduler_bytes_); }

#else

void Fiber::resume() { switch_in(); }
void Fiber::suspend() { switch_out(); }
void Fiber::entered() {}

#endif

#if EMU_FIBER_ASSEMBLY

// emu_switch(save, load): pushes what a called function must preserve, swaps stacks, pops. A new stack is laid out as
// if it had been switched away from at emu_fiber_start, with the function in rbx and its argument in r12.
asm(R"(
.text
.p2align 4
.globl emu_switch
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.globl emu_fiber_start
emu_fiber_start:
  movq %r12, %rdi
  callq *%rbx
  ud2
)");

extern "C" {
void emu_switch(void** save, void* load) asm("emu_switch");
void emu_fiber_start() asm("emu_fiber_start");
}

void Fiber::prepare(uint8_t* stack, Entry entry, void* argument) {
  begin(stack, entry, argument);
  // r15, r14, r13, r12, rbx, rbp, return address; rsp is a multiple of 16 once they are popped.
  auto* top = reinterpret_cast<void**>(stack + kStackBytes - 64);
  void** frame = top - 7;
  frame[0] = frame[1] = frame[2] = frame[5] = nullptr;
  frame[3] = this;
  frame[4] = reinterpret_cast<void*>(&run_fiber);
  frame[6] = reinterpret_cast<void*>(&emu_fiber_start);
  own_ = frame;
}

void Fiber::switch_in() { emu_switch(&scheduler_, own_); }
void Fiber::switch_out() { emu_switch(&own_, scheduler_); }

#else

void Fiber::start(uint32_t high, uint32_t low) {
  run_fiber(reinterpret_cast<Fiber*>(static_cast<uintptr_t>(static_cast<uint64_t>(high) << 32 | low)));
}

void Fiber::prepare(uint8_t* stack, Entry entry, void* argument) {
  begin(stack, entry, argument);
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack;
  own_.uc_stack.ss_size = kStackBytes;
  own_.uc_link = nullptr;
  const uint64_t self = reinterpret_cast<uintptr_t>(this);
  // makecontext passes ints only.
  makecontext(&own_, reinterpret_cast<void (*)()>(&Fiber::start), 2, static_cast<uint32_t>(self >> 32),
              static_cast<uint32_t>(self));
}

void Fiber::switch_in() { swapcontext(&scheduler_, &own_); }
void Fiber::switch_out() { swapcontext(&own_, &scheduler_); }

#endif

}  // namespace emu
