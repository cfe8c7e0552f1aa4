// mbarrier objects.
#pragma once
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE void mbarrier_init(uint32_t bar, uint32_t count, Where where = Where::here()) {
  if (emu::traced("mbarrier_init", bar, count)) return;
  emu::mbarrier_init(bar, count, where);
}

PTX_DEVICE void fence_mbarrier_init(Where where = Where::here()) {
  if (emu::traced("fence_mbarrier_init")) return;
  emu::fence_mbarrier_init(where);
}

PTX_DEVICE void mbarrier_arrive(uint32_t bar, Where where = Where::here()) {
  if (emu::traced("mbarrier_arrive", bar)) return;
  emu::mbarrier_arrive(bar, where);
}

PTX_DEVICE void mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes, Where where = Where::here()) {
  if (emu::traced("mbarrier_arrive_expect_tx", bar, bytes)) return;
  emu::mbarrier_arrive_expect_tx(bar, bytes, where);
}

PTX_DEVICE void mbarrier_arrive_cluster(uint32_t bar, uint32_t rank, Where where = Where::here()) {
  if (emu::traced("mbarrier_arrive_cluster", bar, rank)) return;
  emu::mbarrier_arrive_cluster(bar, rank, where);
}

PTX_DEVICE void mbarrier_wait(uint32_t bar, uint32_t parity, Where where = Where::here()) {
  if (emu::traced("mbarrier_wait", bar, parity)) return;
  emu::mbarrier_wait(bar, parity, emu::Scope::kCta, where);
}
PTX_DEVICE void mbarrier_wait_cluster(uint32_t bar, uint32_t parity, Where where = Where::here()) {
  if (emu::traced("mbarrier_wait", bar, parity)) return;  // one instruction
  emu::mbarrier_wait(bar, parity, emu::Scope::kCluster, where);
}

}  // namespace ptx
