// Global memory: the regions of the launch.
#pragma once
#include "ptx/target.h"

namespace ptx {

PTX_DEVICE float ldg_f32(const float* p, Where where = Where::here()) {
  if (emu::traced("ldg_f32", p)) return emu::delivered<float>();
  float value;
  emu::load_global(p, &value, sizeof value, true, where);
  return value;
}
PTX_DEVICE uint32_t ldg_u32(const void* p, Where where = Where::here()) {
  if (emu::traced("ldg_u32", p)) return emu::delivered_count(reinterpret_cast<uintptr_t>(p));
  uint32_t value;
  emu::load_global(p, &value, sizeof value, true, where);
  return value;
}
PTX_DEVICE U32x4 ldg_v4_u32(const void* p, Where where = Where::here()) {
  uint32_t v[4];
  if (emu::traced("ldg_v4_u32", p)) {
    emu::deliver(v);
  } else {
    emu::load_global(p, v, sizeof v, true, where);
  }
  return {v[0], v[1], v[2], v[3]};
}

PTX_DEVICE U32x4 ldg_v4_u32_if(bool exists, const void* p, Where where = Where::here()) {
  return exists ? ldg_v4_u32(p, where) : U32x4{};
}

PTX_DEVICE uint32_t ld_global_u32(const void* p, Where where = Where::here()) {
  if (emu::traced("ld_global_u32", p)) return emu::delivered<uint32_t>();
  uint32_t value;
  emu::load_global(p, &value, sizeof value, false, where);
  return value;
}
PTX_DEVICE float ld_global_f32(const void* p, Where where = Where::here()) {
  if (emu::traced("ld_global_f32", p)) return emu::delivered<float>();
  float value;
  emu::load_global(p, &value, sizeof value, false, where);
  return value;
}

PTX_DEVICE U32x4 ld_global_v4_u32(const void* p, Where where = Where::here()) {
  uint32_t v[4];
  if (emu::traced("ld_global_v4_u32", p)) {
    emu::deliver(v);
  } else {
    emu::load_global(p, v, sizeof v, false, where);
  }
  return {v[0], v[1], v[2], v[3]};
}

PTX_DEVICE void stg_f32(float* p, float value, Where where = Where::here()) {
  if (emu::traced("stg_f32", p, value)) return;
  emu::check_settled(value, "store", where);
  emu::store_global(p, &value, sizeof value, where);
}
PTX_DEVICE void stg_u32(void* p, uint32_t value, Where where = Where::here()) {
  if (emu::traced("stg_u32", p, value)) return;
  emu::store_global(p, &value, sizeof value, where);
}
PTX_DEVICE void stg_v2_u32(void* p, uint32_t x, uint32_t y, Where where = Where::here()) {
  if (emu::traced("stg_v2_u32", p, x, y)) return;
  const uint32_t values[] = {x, y};
  emu::store_global(p, values, sizeof values, where);
}

PTX_DEVICE void stg_v4_u32(void* p, U32x4 v, Where where = Where::here()) {
  if (emu::traced("stg_v4_u32", p, v.x, v.y, v.z, v.w)) return;
  const uint32_t values[] = {v.x, v.y, v.z, v.w};
  emu::store_global(p, values, sizeof values, where);
}

PTX_DEVICE void st_relaxed_sys_u32(uint32_t* p, uint32_t value, Where where = Where::here()) {
  if (emu::traced("st_relaxed_sys_u32", p, value)) return;
  emu::store_system(p, value, where);
}

PTX_DEVICE void red_add_u32(uint32_t* p, uint32_t value, Where where = Where::here()) {
  if (emu::traced("red_add_u32", p, value)) return;
  emu::add_global(p, value, where);
}

}  // namespace ptx
