// The operand trace: each thread's hardware operations, in program order, with their operands, so that they can be
// compared with those of nvcc's PTX for the same kernel.
//
// In this mode (EmuLaunch.trace) nobody is parked and no memory is touched: waits and barriers return at once, TMA, wgmma
// and stores are only reported. Shuffles exchange real values and lane 0 is elected. What loads and finished
// accumulators deliver is made up from small integers. Number `i` of a thread's delivery `sequence` (from 0, over all
// deliveries of that thread) is
//
//   1 + (thread * 7 + sequence * 13 + i * 5) % 251
//
// where `thread` is the index in the CTA. A float register `index` (0 unless said otherwise) holds number `index`; a
// 32-bit register holds two BF16, number 2 * index in its low half and 2 * index + 1 in the high one, for that is what
// kernels read as words. A BF16 holds all integers up to 256; 251 is prime, so that neighbouring threads, deliveries and
// registers differ. lds_u32 and ldg_u32 read counts, which decide how often a loop runs, and which threads must agree on:
// they deliver
//
//   1 + 7 * w * w % 251,  w = address / 4 % 251
//
// as if memory held it, where the launch does not say what it holds (EmuLaunch.trace_word); neighbours differ by any amount.
// Neither compiler may contract, so rounding is the same on both sides.
//
// An operation is named after its function in ptx/. Operands are its arguments in order, then what is listed here:
// template arguments and coordinates as integers (sign-extended to 64 bits), floats as their 32 bits, shared addresses
// and descriptors as they are, pointers to global memory as their 64 bits (so a comparison puts the same made-up
// pointers into both parameter structs), a tensor map as its offset in the parameter struct.
//
//   mbarrier_init bar count                        fence_mbarrier_init
//   mbarrier_arrive bar                            mbarrier_arrive_expect_tx bar bytes
//   mbarrier_arrive_cluster bar rank               mbarrier_wait bar parity, mbarrier_wait_cluster being the same
//   setmaxnreg_dec count · setmaxnreg_inc count    syncthreads · syncwarp
//   cluster_arrive · cluster_arrive_relaxed        cluster_wait
//   named_barrier_sync id threads                  named_barrier_arrive id threads
//   grid_dependency_wait                           grid_launch_dependents
//   fence_proxy_async_shared                       prefetch_tensormap map
//   tma_load_2d map dst bar x y                    tma_load_3d map dst bar x y z
//   tma_load_2d_multicast map dst bar x y mask     tma_load_3d_multicast map dst bar x y z mask
//   tma_store_2d map src x y                       tma_store_3d map src x y z
//   bulk_copy_to_cta dst bar src bytes rank
//   bulk_commit_group                              bulk_wait_group_read pending · bulk_wait_group pending
//   wgmma_fence · wgmma_commit_group               wgmma_wait_group pending   delivers the accumulator's registers
//   wgmma_k32_e4m3, wgmma_k16_bf16, wgmma_k16_bf16_mn registers desc_a desc_b accumulate
//   wgmma_rs_k16_bf16_mn registers a0 a1 a2 a3 desc_b accumulate
//   lds_f32 addr                                   delivers index 0
//   ldg_f32 p · ld_global_f32 p · ld_global_u32 p  deliver index 0
//   lds_u32 addr · ldg_u32 p                       deliver what the address says
//   lds_v4_u32 addr · ldg_v4_u32 p                 deliver index 0 .. 3
//   ldmatrix_x4 addr                               delivers index 0 .. 3
//   sts_u32 addr value · sts_f32 addr value        sts_v2_f32 addr x y
//   sts_v4_u32 addr x y z w                        stg_u32 p value · red_add_u32 p value
//   stmatrix_x4 addr m0 m1 m2 m3                   stmatrix_x2 addr m0 m1
//   stg_f32 p value · stg_v2_u32 p x y             stg_v4_u32 p x y z w · st_relaxed_sys_u32 p value
//
//   name_shared addr name index                    no operation of the hardware's
//
// Not reported: special registers, shuffles, reductions, elect_one, warp_uniform, arithmetic, smem_base.
#pragma once
#include <bit>
#include <cstdint>
#include <type_traits>

#include "hopper/emulated/machine/emu.h"

namespace emu {

extern constinit thread_local bool tracing;
void set_trace(bool on);

void record_trace(const char* op, const uint64_t* operands, uint32_t count);
uint32_t made_up(uint32_t index);
void next_delivery();
uint32_t delivered_count(uint64_t address);
uint64_t trace_map(const TensorMap& map);

template <class T>
uint64_t trace_operand(const T& value) {
  if constexpr (std::is_same_v<T, TensorMap>) {
    return trace_map(value);
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<uintptr_t>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return std::bit_cast<uint32_t>(value);
  } else {
    return static_cast<uint64_t>(static_cast<int64_t>(value));
  }
}

// Reports the operation and returns true in trace mode; false otherwise.
template <class... Operand>
inline bool traced(const char* op, const Operand&... operands) {
  if (!tracing) return false;
  const uint64_t values[] = {trace_operand(operands)..., 0};
  record_trace(op, values, sizeof...(operands));
  return true;
}

inline void fill(float& value, uint32_t index) { value = static_cast<float>(made_up(index)); }
inline void fill(uint32_t& pair, uint32_t index) {
  const auto bits = [](uint32_t number) { return std::bit_cast<uint32_t>(static_cast<float>(number)); };
  pair = bits(made_up(2 * index)) >> 16 | bits(made_up(2 * index + 1));  // BF16 is the upper half of a float
}

// The next delivery of the running thread.
template <class T, uint32_t N>
void deliver(T (&values)[N]) {
  for (uint32_t i = 0; i < N; ++i) fill(values[i], i);
  next_delivery();
}
template <class T>
T delivered() {
  T value[1];
  deliver(value);
  return value[0];
}

}  // namespace emu
