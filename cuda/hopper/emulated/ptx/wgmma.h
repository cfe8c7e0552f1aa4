// wgmma: one warpgroup multiplies a 64 x K tile, in shared memory or in its registers, by a K x N tile in shared memory,
// asynchronously.
#pragma once
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE void wgmma_fence(Where where = Where::here()) {
  if (emu::traced("wgmma_fence")) return;
  emu::wgmma_fence(where);
}

PTX_DEVICE void wgmma_commit_group(Where where = Where::here()) {
  if (emu::traced("wgmma_commit_group")) return;
  emu::wgmma_commit_group(where);
}

template <int Pending, int Registers>
PTX_DEVICE void wgmma_wait_group(float (&d)[Registers], Where where = Where::here()) {
  if (emu::traced("wgmma_wait_group", Pending)) return emu::deliver(d);
  emu::wgmma_wait_group(Pending, d, Registers, where);
}

template <int Pending, int Registers, int Steps>
PTX_DEVICE void wgmma_wait_group(float (&d)[Registers], uint32_t (&a)[Steps][4], Where where = Where::here()) {
  wgmma_wait_group<Pending>(d, where);
  if (emu::tracing) return;
  for (auto& step : a) emu::wgmma_return_a(step);
}

// N is twice the number of registers: 8, 16, 32, 64, 96, 128, 144, 160, 192 or 256, as in the inline PTX.
template <int Registers>
constexpr bool kIsAccumulator =
    Registers == 4 || Registers == 8 || Registers == 16 || Registers == 32 || Registers == 48 || Registers == 64 ||
    Registers == 72 || Registers == 80 || Registers == 96 || Registers == 128;

template <int Registers>
PTX_DEVICE void wgmma_k32_e4m3(float (&d)[Registers], uint64_t desc_a, uint64_t desc_b, bool accumulate,
                               Where where = Where::here()) {
  static_assert(kIsAccumulator<Registers>);
  if (emu::traced("wgmma_k32_e4m3", Registers, desc_a, desc_b, accumulate)) return;
  emu::wgmma(emu::Operands::kE4m3, d, Registers, desc_a, desc_b, accumulate, where);
}

template <int Registers>
PTX_DEVICE void wgmma_k16_bf16(float (&d)[Registers], uint64_t desc_a, uint64_t desc_b, bool accumulate,
                               Where where = Where::here()) {
  static_assert(kIsAccumulator<Registers>);
  if (emu::traced("wgmma_k16_bf16", Registers, desc_a, desc_b, accumulate)) return;
  emu::wgmma(emu::Operands::kBf16, d, Registers, desc_a, desc_b, accumulate, where);
}

template <int Registers>
PTX_DEVICE void wgmma_k16_bf16_mn(float (&d)[Registers], uint64_t desc_a, uint64_t desc_b, bool accumulate,
                                  Where where = Where::here()) {
  static_assert(kIsAccumulator<Registers>);
  if (emu::traced("wgmma_k16_bf16_mn", Registers, desc_a, desc_b, accumulate)) return;
  emu::wgmma(emu::Operands::kBf16Mn, d, Registers, desc_a, desc_b, accumulate, where);
}

template <int Registers>
PTX_DEVICE void wgmma_rs_k16_bf16_mn(float (&d)[Registers], uint32_t (&a)[4], uint64_t desc_b, bool accumulate,
                                     Where where = Where::here()) {
  static_assert(kIsAccumulator<Registers>);
  if (emu::traced("wgmma_rs_k16_bf16_mn", Registers, a[0], a[1], a[2], a[3], desc_b, accumulate)) return;
  emu::wgmma_rs(d, Registers, a, desc_b, accumulate, where);
}

}  // namespace ptx
