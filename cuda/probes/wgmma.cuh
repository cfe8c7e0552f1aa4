// D <- A . B^T (+ D) on one 64 x N tile per CTA, A [64, 128 bytes] and B [N, 128 bytes], by one of the four k steps of
// 32 bytes or by all of them in one group, repeated.
//
//   maps       A [64 grid, 128 bytes], B [N grid, 128 bytes], 128-byte swizzle
//   input      D before, FP32 bits  [grid, 64, N]
//   arguments  N, operands (0: E4M3, 1: BF16), first k step, k steps (1, or 4 from step 0), keep D (0 or 1), repeats
//   output     D, FP32 bits  [grid, 64, N]
#pragma once
#include <bit>

#include "probes/words.cuh"
#include "ptx/mbarrier.h"
#include "ptx/sync.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"
#include "tile/descriptor.h"
#include "tile/fragment.h"

constexpr uint32_t kProbeRowBytes = 128;
constexpr uint32_t kProbeStepBytes = 32;
constexpr uint32_t kAllSteps = 4;

template <bool Bf16, int Registers>
PTX_DEVICE void multiply_step(float (&rD)[Registers], uint64_t desc_a, uint64_t desc_b, uint32_t step, bool keep) {
  const uint64_t a = descriptor_advance(desc_a, step * kProbeStepBytes);
  const uint64_t b = descriptor_advance(desc_b, step * kProbeStepBytes);
  if constexpr (Bf16) {
    ptx::wgmma_k16_bf16(rD, a, b, keep);
  } else {
    ptx::wgmma_k32_e4m3(rD, a, b, keep);
  }
}

template <bool Bf16, int N>
PTX_DEVICE void multiply(const ProbeParams& params, uint32_t sA, uint32_t sB) {
  const uint32_t first = params.arguments[2], steps = params.arguments[3];
  const uint32_t thread = ptx::thread_idx();
  const uint64_t corner = (ptx::block_idx() * 64 + fragment_row(thread)) * N + fragment_column(thread);
  float rD[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const uint64_t element = corner + 8 * (i % 4 / 2) * N + 8 * (i / 4) + i % 2;
    rD[i] = std::bit_cast<float>(ptx::ld_global_u32(params.input + element));
  }
  const uint64_t desc_a = descriptor_k_major_128b(sA), desc_b = descriptor_k_major_128b(sB);
  bool keep = params.arguments[4] != 0;
#pragma unroll 1
  for (uint32_t repeat = 0; repeat < params.arguments[5]; ++repeat) {
    if (steps == kAllSteps) {
      ptx::wgmma_fence();
#pragma unroll
      for (uint32_t step = 0; step < kAllSteps; ++step) {
        multiply_step<Bf16>(rD, desc_a, desc_b, step, keep || step != 0);
      }
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>(rD);
    } else {
      ptx::wgmma_fence();
      multiply_step<Bf16>(rD, desc_a, desc_b, first, keep);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>(rD);
    }
    keep = true;
  }
#pragma unroll
  for (int i = 0; i < N / 2; i += 2) {
    const uint64_t element = corner + 8 * (i % 4 / 2) * N + 8 * (i / 4);
    ptx::stg_v2_u32(params.output + element, std::bit_cast<uint32_t>(rD[i]), std::bit_cast<uint32_t>(rD[i + 1]));
  }
}

template <bool Bf16>
PTX_DEVICE void multiply_width(const ProbeParams& params, uint32_t sA, uint32_t sB) {
  switch (params.arguments[0]) {
    case 8: return multiply<Bf16, 8>(params, sA, sB);
    case 16: return multiply<Bf16, 16>(params, sA, sB);
    case 32: return multiply<Bf16, 32>(params, sA, sB);
    case 64: return multiply<Bf16, 64>(params, sA, sB);
    case 128: return multiply<Bf16, 128>(params, sA, sB);
    default: return multiply<Bf16, 256>(params, sA, sB);
  }
}

PTX_DEVICE void probe_wgmma_kernel(const ProbeParams& params) {
  const uint32_t n = params.arguments[0];
  const uint32_t sA = ptx::smem_base();
  const uint32_t sB = sA + 64 * kProbeRowBytes;
  const uint32_t bar = sB + 256 * kProbeRowBytes;
  if (ptx::thread_idx() == 0) {
    ptx::mbarrier_init(bar, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::syncthreads();
  if (ptx::thread_idx() == 0) {
    ptx::mbarrier_arrive_expect_tx(bar, (64 + n) * kProbeRowBytes);
    ptx::tma_load_2d(params.map_load[0], sA, bar, 0, static_cast<int32_t>(64 * ptx::block_idx()));
    ptx::tma_load_2d(params.map_load[1], sB, bar, 0, static_cast<int32_t>(n * ptx::block_idx()));
  }
  ptx::mbarrier_wait(bar, 0);
  if (params.arguments[1] == 0) {
    multiply_width<false>(params, sA, sB);
  } else {
    multiply_width<true>(params, sA, sB);
  }
}
