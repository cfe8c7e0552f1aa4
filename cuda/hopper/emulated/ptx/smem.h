// Shared memory.
#pragma once
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE uint32_t smem_base() { return 1024; }

PTX_DEVICE void name_shared(uint32_t addr, const char* name, uint32_t index) {
  if (emu::traced("name_shared", addr, name, index)) return;
  emu::name_shared(addr, name, index);
}

PTX_DEVICE float lds_f32(uint32_t addr, Where where = Where::here()) {
  if (emu::traced("lds_f32", addr)) return emu::delivered<float>();
  float value;
  emu::load_shared(addr, &value, sizeof value, where);
  return value;
}
PTX_DEVICE uint32_t lds_u32(uint32_t addr, Where where = Where::here()) {
  if (emu::traced("lds_u32", addr)) return emu::delivered_count(addr);
  uint32_t value;
  emu::load_shared(addr, &value, sizeof value, where);
  return value;
}

PTX_DEVICE U32x4 lds_v4_u32(uint32_t addr, Where where = Where::here()) {
  uint32_t v[4];
  if (emu::traced("lds_v4_u32", addr)) {
    emu::deliver(v);
  } else {
    emu::load_shared(addr, v, sizeof v, where);
  }
  return {v[0], v[1], v[2], v[3]};
}

PTX_DEVICE void sts_u32(uint32_t addr, uint32_t value, Where where = Where::here()) {
  if (emu::traced("sts_u32", addr, value)) return;
  emu::store_shared(addr, &value, sizeof value, where);
}
PTX_DEVICE void sts_f32(uint32_t addr, float value, Where where = Where::here()) {
  if (emu::traced("sts_f32", addr, value)) return;
  emu::check_settled(value, "store", where);
  emu::store_shared(addr, &value, sizeof value, where);
}
PTX_DEVICE void sts_v2_f32(uint32_t addr, float x, float y, Where where = Where::here()) {
  if (emu::traced("sts_v2_f32", addr, x, y)) return;
  emu::check_settled(x, "store", where);
  emu::check_settled(y, "store", where);
  const float values[] = {x, y};
  emu::store_shared(addr, values, sizeof values, where);
}

PTX_DEVICE void sts_v4_u32(uint32_t addr, U32x4 v, Where where = Where::here()) {
  if (emu::traced("sts_v4_u32", addr, v.x, v.y, v.z, v.w)) return;
  const uint32_t values[] = {v.x, v.y, v.z, v.w};
  emu::store_shared(addr, values, sizeof values, where);
}

PTX_DEVICE void stmatrix_x4(uint32_t addr, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3,
                            Where where = Where::here()) {
  if (emu::traced("stmatrix_x4", addr, m0, m1, m2, m3)) return;
  const uint32_t registers[] = {m0, m1, m2, m3};
  emu::store_matrices(addr, registers, 4, where);
}
PTX_DEVICE void stmatrix_x2(uint32_t addr, uint32_t m0, uint32_t m1, Where where = Where::here()) {
  if (emu::traced("stmatrix_x2", addr, m0, m1)) return;
  const uint32_t registers[] = {m0, m1};
  emu::store_matrices(addr, registers, 2, where);
}

PTX_DEVICE void ldmatrix_x4(uint32_t (&m)[4], uint32_t addr, Where where = Where::here()) {
  if (emu::traced("ldmatrix_x4", addr)) return emu::deliver(m);
  emu::load_matrices(addr, m, 4, where);
}

}  // namespace ptx
