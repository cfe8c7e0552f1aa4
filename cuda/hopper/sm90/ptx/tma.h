// TMA: bulk copies, most of them of boxes of a tensor, described by a tensor map. Coordinates name the fastest dimension
// first (x), count elements, and may lie outside the tensor: loads fill with zero, stores skip. PTX ISA,
// "cp.async.bulk.tensor". What it does not say, and an H100 does: x must be a multiple of 16 bytes, no coordinate of a
// store may be negative (either is an illegal instruction), and a store writes whole units of 16 bytes, past the end of a
// row of the tensor too.
#pragma once
#include "ptx/target.h"

namespace ptx {

// Brings a descriptor into its cache. "prefetch.tensormap".
PTX_DEVICE void prefetch_tensormap(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Box at (x, y) -> `dst`; completes its full byte count on `bar`, both in this CTA.
PTX_DEVICE void tma_load_2d(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(dst),
      "l"(&map), "r"(bar), "r"(x), "r"(y)
      : "memory");
}
PTX_DEVICE void tma_load_3d(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(dst),
      "l"(&map), "r"(bar), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// The same box to the same offset in every CTA whose bit is set in `mask`; each counts the full bytes on its own
// barrier at the offset of `bar`. ".multicast::cluster".
PTX_DEVICE void tma_load_2d_multicast(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y,
                                      uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
      "l"(&map), "r"(bar), "r"(x), "r"(y), "h"(mask)
      : "memory");
}

PTX_DEVICE void tma_load_3d_multicast(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y,
                                      int32_t z, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(dst),
      "l"(&map), "r"(bar), "r"(x), "r"(y), "r"(z), "h"(mask)
      : "memory");
}

// `bytes` of this CTA's shared memory from `src` on -> offset `dst` of CTA `rank` of the cluster; completes them on the
// barrier at the offset of `bar` there. `dst`, `src` and `bytes` are multiples of 16. "mapa", "cp.async.bulk".
PTX_DEVICE void bulk_copy_to_cta(uint32_t dst, uint32_t bar, uint32_t src, uint32_t bytes, uint32_t rank) {
  asm volatile(
      "{ .reg .b32 remote_dst, remote_bar;\n"
      "mapa.shared::cluster.u32 remote_dst, %0, %4;\n"
      "mapa.shared::cluster.u32 remote_bar, %1, %4;\n"
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [remote_dst], [%2], %3, "
      "[remote_bar]; }" ::"r"(dst),
      "r"(bar), "r"(src), "r"(bytes), "r"(rank)
      : "memory");
}

// `src` -> box at (x, y); joins this thread's open bulk group.
PTX_DEVICE void tma_store_2d(const TensorMap& map, uint32_t src, int32_t x, int32_t y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(src), "r"(x), "r"(y)
               : "memory");
}
PTX_DEVICE void tma_store_3d(const TensorMap& map, uint32_t src, int32_t x, int32_t y, int32_t z) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(src), "r"(x), "r"(y), "r"(z)
               : "memory");
}

// Closes this thread's open bulk group. "cp.async.bulk.commit_group".
PTX_DEVICE void bulk_commit_group() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until at most `Pending` of this thread's groups have not yet read shared memory: it may be reused.
// "cp.async.bulk.wait_group.read".
template <int Pending>
PTX_DEVICE void bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
// Waits until at most `Pending` of this thread's groups are not yet written. "cp.async.bulk.wait_group".
template <int Pending>
PTX_DEVICE void bulk_wait_group() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace ptx
