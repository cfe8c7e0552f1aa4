// D <- A . B^T (+ D) on one 64 x N tile per CTA, A [64, 128 bytes] and B [N, 128 bytes], by one of the four k steps of
// 32 bytes or by all of them in one group, repeated; or D <- A . B (+ D) with B N-major, [64, N] BF16, and A in shared memory
// or in registers.
//
//   maps       A [64 grid, 128 bytes] and B [N grid, 128 bytes], or N-major B [64 grid, at least 64 columns];
//              128-byte swizzle
//   input      D before, FP32 bits  [grid, 64, N]
//   arguments  N, operands (0: E4M3, 1: BF16, 2: BF16, B N-major, 3: A in registers too), first k step, k steps (1, or 4 from step 0),
//              keep D (0 or 1), repeats, bytes between the chunks of an N-major B, error in its descriptor (0: none)
//   output     D, FP32 bits  [grid, 64, N]
#pragma once
#include <bit>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/probes/words.cuh"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/fragment.h"
#include "hopper/tile/swizzle.h"
#include "ptx/mbarrier.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

enum class ProbeOperands : uint32_t { kE4m3, kBf16, kBf16Mn, kBf16RsMn };
enum class ProbeSlip : uint32_t { kNone, kMajor, kSwizzle, kNextAtom, kFarAway };

constexpr uint32_t kProbeRowBytes = 128;
constexpr uint32_t kProbeStepBytes = 32;     // of K, in a row of A or a K-major B
constexpr uint32_t kProbeStepRows = 16;      // of K, in an N-major B
constexpr uint32_t kProbeBBytes = 38 * 1024;  // 256 rows; or four chunks of 64 rows, up to 10 KiB apart
constexpr uint32_t kAllSteps = 4;

PTX_DEVICE uint64_t slipped(uint32_t sB, uint32_t chunk_bytes, ProbeSlip slip) {
  switch (slip) {
    case ProbeSlip::kMajor: return descriptor_k_major_128b(sB);
    case ProbeSlip::kSwizzle: return descriptor_mn_major_128b(sB, chunk_bytes) & ~(uint64_t{3} << 62);
    case ProbeSlip::kNextAtom: return descriptor_mn_major_128b(sB, chunk_bytes + 1024);
    case ProbeSlip::kFarAway: return descriptor_mn_major_128b(sB, 128 * 1024);
    default: return descriptor_mn_major_128b(sB, chunk_bytes);
  }
}

constexpr bool is_n_major(ProbeOperands kind) {
  return kind == ProbeOperands::kBf16Mn || kind == ProbeOperands::kBf16RsMn;
}

// rA <- sA, as an accumulator of 64 x 16 of each step would hold it.
PTX_DEVICE void load_fragments(uint32_t (&rA)[kAllSteps][4], uint32_t sA) {
  const uint32_t thread = ptx::thread_idx();
#pragma unroll
  for (uint32_t i = 0; i < kAllSteps * 4; ++i) {
    const uint32_t row = fragment_row(thread) + 8 * (i % 2);
    const uint32_t column = 16 * (i / 4) + 8 * (i % 4 / 2) + fragment_column(thread);
    rA[i / 4][i % 4] = ptx::lds_u32(swizzle<kProbeRowBytes>(sA + row * kProbeRowBytes + column * 2));
  }
}

template <ProbeOperands Kind, int Registers>
PTX_DEVICE void multiply_step(float (&rD)[Registers], uint32_t (&rA)[kAllSteps][4], uint64_t desc_a, uint64_t desc_b,
                              uint32_t step, bool keep) {
  const uint64_t a = descriptor_advance(desc_a, step * kProbeStepBytes);
  if constexpr (is_n_major(Kind)) {
    const uint64_t b = descriptor_advance(desc_b, step * kProbeStepRows * kProbeRowBytes);
    if constexpr (Kind == ProbeOperands::kBf16RsMn) {
      ptx::wgmma_rs_k16_bf16_mn(rD, rA[step], b, keep);
    } else {
      ptx::wgmma_k16_bf16_mn(rD, a, b, keep);
    }
  } else if constexpr (Kind == ProbeOperands::kBf16) {
    ptx::wgmma_k16_bf16(rD, a, descriptor_advance(desc_b, step * kProbeStepBytes), keep);
  } else {
    ptx::wgmma_k32_e4m3(rD, a, descriptor_advance(desc_b, step * kProbeStepBytes), keep);
  }
}

template <ProbeOperands Kind, int Registers>
PTX_DEVICE void finish_group(float (&rD)[Registers], uint32_t (&rA)[kAllSteps][4]) {
  ptx::wgmma_commit_group();
  if constexpr (Kind == ProbeOperands::kBf16RsMn) {
    ptx::wgmma_wait_group<0>(rD, rA);
  } else {
    ptx::wgmma_wait_group<0>(rD);
  }
}

template <ProbeOperands Kind, int N>
PTX_DEVICE void multiply(const ProbeParams& params, uint32_t sA, uint32_t sB) {
  const uint32_t first = params.arguments[2], steps = params.arguments[3];
  const uint32_t thread = ptx::thread_idx();
  const uint64_t corner = (ptx::cta_idx() * 64 + fragment_row(thread)) * N + fragment_column(thread);
  float rD[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const uint64_t element = corner + 8 * (i % 4 / 2) * N + 8 * (i / 4) + i % 2;
    rD[i] = std::bit_cast<float>(ptx::ld_global_u32(params.input + element));
  }
  const uint64_t desc_a = descriptor_k_major_128b(sA);
  uint32_t rA[kAllSteps][4] = {};
  if constexpr (Kind == ProbeOperands::kBf16RsMn) load_fragments(rA, sA);
  const uint64_t desc_b = is_n_major(Kind)
                              ? slipped(sB, params.arguments[6], static_cast<ProbeSlip>(params.arguments[7]))
                              : descriptor_k_major_128b(sB);
  bool keep = params.arguments[4] != 0;
#pragma unroll 1
  for (uint32_t repeat = 0; repeat < params.arguments[5]; ++repeat) {
    if (steps == kAllSteps) {
      ptx::wgmma_fence();
#pragma unroll
      for (uint32_t step = 0; step < kAllSteps; ++step) {
        multiply_step<Kind>(rD, rA, desc_a, desc_b, step, keep || step != 0);
      }
      finish_group<Kind>(rD, rA);
    } else {
#pragma unroll
      for (uint32_t step = 0; step < kAllSteps; ++step) {
        if (step != first) continue;
        ptx::wgmma_fence();
        multiply_step<Kind>(rD, rA, desc_a, desc_b, step, keep);
        finish_group<Kind>(rD, rA);
      }
    }
    keep = true;
  }
#pragma unroll
  for (int i = 0; i < N / 2; i += 2) {
    const uint64_t element = corner + 8 * (i % 4 / 2) * N + 8 * (i / 4);
    ptx::stg_v2_u32(params.output + element, std::bit_cast<uint32_t>(rD[i]), std::bit_cast<uint32_t>(rD[i + 1]));
  }
}

template <ProbeOperands Kind>
PTX_DEVICE void multiply_width(const ProbeParams& params, uint32_t sA, uint32_t sB) {
  switch (params.arguments[0]) {
    case 8: return multiply<Kind, 8>(params, sA, sB);
    case 16: return multiply<Kind, 16>(params, sA, sB);
    case 32: return multiply<Kind, 32>(params, sA, sB);
    case 64: return multiply<Kind, 64>(params, sA, sB);
    case 96: return multiply<Kind, 96>(params, sA, sB);
    case 128: return multiply<Kind, 128>(params, sA, sB);
    case 144: return multiply<Kind, 144>(params, sA, sB);
    case 160: return multiply<Kind, 160>(params, sA, sB);
    case 192: return multiply<Kind, 192>(params, sA, sB);
    default: return multiply<Kind, 256>(params, sA, sB);
  }
}

// An N-major B arrives in chunks of 64 columns.
PTX_DEVICE void load_operands(const ProbeParams& params, uint32_t sA, uint32_t sB, uint32_t bar) {
  const uint32_t n = params.arguments[0];
  const bool n_major = is_n_major(static_cast<ProbeOperands>(params.arguments[1]));
  const uint32_t chunks = n_major ? (n + 63) / 64 : 1;
  const uint32_t rows = n_major ? 64 : n;
  ptx::mbarrier_arrive_expect_tx(bar, (64 + chunks * rows) * kProbeRowBytes);
  ptx::tma_load_2d(params.map_load[0], sA, bar, 0, static_cast<int32_t>(64 * ptx::cta_idx()));
  for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
    ptx::tma_load_2d(params.map_load[1], sB + chunk * params.arguments[6], bar,
                     static_cast<int32_t>(chunk * kProbeRowBytes), static_cast<int32_t>(rows * ptx::cta_idx()));
  }
}

PTX_DEVICE void probe_wgmma_kernel(const ProbeParams& params) {
  enter_grid();
  const uint32_t sA = ptx::smem_base();
  const uint32_t sB = sA + 64 * kProbeRowBytes;
  const uint32_t bar = sB + kProbeBBytes;
  if (ptx::thread_idx() == 0) {
    ptx::mbarrier_init(bar, 1);
    ptx::fence_mbarrier_init();
  }
  ptx::syncthreads();
  if (ptx::thread_idx() == 0) load_operands(params, sA, sB, bar);
  ptx::mbarrier_wait(bar, 0);
  switch (static_cast<ProbeOperands>(params.arguments[1])) {
    case ProbeOperands::kE4m3: return multiply_width<ProbeOperands::kE4m3>(params, sA, sB);
    case ProbeOperands::kBf16: return multiply_width<ProbeOperands::kBf16>(params, sA, sB);
    case ProbeOperands::kBf16Mn: return multiply_width<ProbeOperands::kBf16Mn>(params, sA, sB);
    default: return multiply_width<ProbeOperands::kBf16RsMn>(params, sA, sB);
  }
}
