// The emulated Hopper, as the functions in emu/ptx/ see it: one call per instruction.
//
// A launch runs in the calling OS thread. Every CUDA thread is a fiber; TMA and the tensor cores are engines that move
// at moments drawn from the seed. Three nets catch what a kernel does wrong: values (asynchronous effects land late,
// and are NaN until then), a state per byte of shared memory, and vector clocks. The first fault ends the launch with a
// report that names the calling line of the kernel.
//
// What it cannot catch:
//  1. ptxas and what lies below: register allocation, scheduling, ignored setmaxnreg, serialised wgmma.
//  2. Beliefs that kernel and model share: orderings, proxies and byte counts follow documents, not a GPU.
//  3. The bits of approximate instructions. Those of the tensor core are a model (docs/numerics.md), which an H100
//     confirms in every sum that was asked.
//  4. Performance: occupancy, caches, latency. It counts what a launch does (emu.h), not how long that takes.
//  5. The driver: its map encoder, launch limits, streams, graphs.
//  6. Clusters that run at the same time: they run one after another, so a kernel in which one waits for another
//     never ends here (the step limit reports it). Memory weaker than happens-before.
//  7. Races on global memory of a write with an earlier read, and a missing proxy fence between a thread's access and a
//     TMA access of global memory.
//  8. Races on shared memory between parts of the same four bytes. Two threads that write neighbouring bytes of the
//     same four are reported although they do not race.
//  9. That the warps of a warpgroup read the operands of a wgmma each in its own time: whoever has waited for it knows
//     that all four have.
//  10. A kernel's stack overflow: the guard page ends the process.
//  11. The text of the inline PTX; the operand trace (trace.h) compares that.
#pragma once
#include <cstdint>

#include "hopper/emulated/machine/emu.h"

namespace emu {

// A place in a kernel. As a default argument it is the place of the call.
struct Where {
  const char* file = "";
  int line = 0;

  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

struct Kernel {
  const char* name;
  void (*body)(const void* params);
  uint32_t threads, cluster;
  uint64_t params_bytes;
};

// What the running launch has done so far.
EmuCounts& counts();

// Special registers and register files.
uint32_t thread_idx();
uint32_t cta_idx();
uint32_t grid_dim();
uint32_t cluster_rank();
void set_registers(uint32_t count, bool increase, Where where);

// Shared memory.
void name_shared(uint32_t addr, const char* name, uint32_t index);
void load_shared(uint32_t addr, void* value, uint32_t bytes, Where where);
void store_shared(uint32_t addr, const void* value, uint32_t bytes, Where where);
void store_matrices(uint32_t addr, const uint32_t* registers, uint32_t matrices, Where where);
void load_matrices(uint32_t addr, uint32_t* registers, uint32_t matrices, Where where);
void fence_proxy_async(Where where);

// Global memory. `read_only`: through the path that must not see writes of the same launch.
void load_global(const void* p, void* value, uint32_t bytes, bool read_only, Where where);
void store_global(void* p, const void* value, uint32_t bytes, Where where);
void store_system(uint32_t* p, uint32_t value, Where where);
void add_global(uint32_t* p, uint32_t value, Where where);

// Warp, CTA, cluster.
void sync_warp(Where where);
bool elect(Where where);
uint32_t shuffle(uint32_t value, uint32_t source_lane, const char* name, Where where);
enum class Reduction { kAdd, kMin, kMax };
uint32_t reduce(Reduction reduction, uint32_t value, Where where);  // over the warp
void named_barrier(uint32_t id, uint32_t threads, bool wait, Where where);  // 0 threads: all of the CTA
void cluster_arrive(bool relaxed, Where where);
void cluster_wait(Where where);

// The grid among those of its stream. Launches run one after another here; a thread that would not be safe if they
// overlapped is a fault: one that touches global memory before it has waited, and one that ends without.
void grid_dependency_wait(Where where);
void grid_launch_dependents(Where where);

// mbarriers.
enum class Scope { kCta, kCluster };
void mbarrier_init(uint32_t bar, uint32_t count, Where where);
void fence_mbarrier_init(Where where);
void mbarrier_arrive(uint32_t bar, Where where);
void mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes, Where where);
void mbarrier_arrive_cluster(uint32_t bar, uint32_t rank, Where where);
void mbarrier_wait(uint32_t bar, uint32_t parity, Scope scope, Where where);

// TMA. The mask of a multicast and the rank of a copy name CTAs of the cluster.
constexpr uint32_t kNoMulticast = 1 << 16;
void prefetch_tensormap(const TensorMap& map, Where where);
void tma_load(const TensorMap& map, uint32_t dst, uint32_t bar, const int32_t* coordinates, uint32_t rank,
              uint32_t mask, Where where);
void tma_store(const TensorMap& map, uint32_t src, const int32_t* coordinates, uint32_t rank, Where where);
void bulk_copy_to_cta(uint32_t dst, uint32_t bar, uint32_t src, uint32_t bytes, uint32_t rank, Where where);
void bulk_commit_group(Where where);
void bulk_wait_group(uint32_t pending, bool read_only, Where where);

// Tensor core.
// m64nNk32, m64nNk16; both operands K-major in shared memory, but B of kBf16Mn N-major
enum class Operands { kE4m3, kBf16, kBf16Mn, kBf16RsMn };
void wgmma_fence(Where where);
void wgmma(Operands operands, float* d, uint32_t registers, uint64_t desc_a, uint64_t desc_b, bool accumulate,
           Where where);
void wgmma_rs(float* d, uint32_t registers, uint32_t (&a)[4], uint64_t desc_b, bool accumulate, Where where);
void wgmma_commit_group(Where where);
void wgmma_wait_group(uint32_t pending, float* d, uint32_t registers, Where where);
// Behind it: registers of A that this wait covers are the thread's again.
void wgmma_return_a(uint32_t (&a)[4]);

// Faults if `value` was computed from an accumulator that still belongs to the tensor core.
void check_settled(float value, const char* what, Where where);

}  // namespace emu

// Every kernel of the library, ended by a null. The build generates it.
extern "C" {
extern const emu::Kernel* const emu_kernels[];
}
