// TMA: bulk copies.
#pragma once
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE void prefetch_tensormap(const TensorMap& map, Where where = Where::here()) {
  if (emu::traced("prefetch_tensormap", map)) return;
  emu::prefetch_tensormap(map, where);
}

PTX_DEVICE void tma_load_2d(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y,
                            Where where = Where::here()) {
  if (emu::traced("tma_load_2d", map, dst, bar, x, y)) return;
  const int32_t coordinates[] = {x, y};
  emu::tma_load(map, dst, bar, coordinates, 2, emu::kNoMulticast, where);
}
PTX_DEVICE void tma_load_3d(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y, int32_t z,
                            Where where = Where::here()) {
  if (emu::traced("tma_load_3d", map, dst, bar, x, y, z)) return;
  const int32_t coordinates[] = {x, y, z};
  emu::tma_load(map, dst, bar, coordinates, 3, emu::kNoMulticast, where);
}

PTX_DEVICE void tma_load_2d_multicast(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y,
                                      uint16_t mask, Where where = Where::here()) {
  if (emu::traced("tma_load_2d_multicast", map, dst, bar, x, y, mask)) return;
  const int32_t coordinates[] = {x, y};
  emu::tma_load(map, dst, bar, coordinates, 2, mask, where);
}

PTX_DEVICE void tma_load_3d_multicast(const TensorMap& map, uint32_t dst, uint32_t bar, int32_t x, int32_t y,
                                      int32_t z, uint16_t mask, Where where = Where::here()) {
  if (emu::traced("tma_load_3d_multicast", map, dst, bar, x, y, z, mask)) return;
  const int32_t coordinates[] = {x, y, z};
  emu::tma_load(map, dst, bar, coordinates, 3, mask, where);
}

PTX_DEVICE void bulk_copy_to_cta(uint32_t dst, uint32_t bar, uint32_t src, uint32_t bytes, uint32_t rank,
                                 Where where = Where::here()) {
  if (emu::traced("bulk_copy_to_cta", dst, bar, src, bytes, rank)) return;
  emu::bulk_copy_to_cta(dst, bar, src, bytes, rank, where);
}

PTX_DEVICE void tma_store_2d(const TensorMap& map, uint32_t src, int32_t x, int32_t y, Where where = Where::here()) {
  if (emu::traced("tma_store_2d", map, src, x, y)) return;
  const int32_t coordinates[] = {x, y};
  emu::tma_store(map, src, coordinates, 2, where);
}
PTX_DEVICE void tma_store_3d(const TensorMap& map, uint32_t src, int32_t x, int32_t y, int32_t z,
                             Where where = Where::here()) {
  if (emu::traced("tma_store_3d", map, src, x, y, z)) return;
  const int32_t coordinates[] = {x, y, z};
  emu::tma_store(map, src, coordinates, 3, where);
}

PTX_DEVICE void bulk_commit_group(Where where = Where::here()) {
  if (emu::traced("bulk_commit_group")) return;
  emu::bulk_commit_group(where);
}

template <int Pending>
PTX_DEVICE void bulk_wait_group_read(Where where = Where::here()) {
  if (emu::traced("bulk_wait_group_read", Pending)) return;
  emu::bulk_wait_group(Pending, true, where);
}
template <int Pending>
PTX_DEVICE void bulk_wait_group(Where where = Where::here()) {
  if (emu::traced("bulk_wait_group", Pending)) return;
  emu::bulk_wait_group(Pending, false, where);
}

}  // namespace ptx
