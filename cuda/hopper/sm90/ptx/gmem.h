// Global memory, one access per function. Loads marked `ldg` take the read-only path: nothing in the same launch may
// write what they read. They are volatile because a launch ahead may: none may move up over `grid_dependency_wait`.
#pragma once
#include "ptx/target.h"

namespace ptx {

// "ld.global.nc".
PTX_DEVICE float ldg_f32(const float* p) {
  float value;
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(p));
  return value;
}
PTX_DEVICE uint32_t ldg_u32(const void* p) {
  uint32_t value;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(p));
  return value;
}
// 16 bytes, 16-byte aligned.
PTX_DEVICE U32x4 ldg_v4_u32(const void* p) {
  U32x4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// The same if `exists`, else zeros, and no access. One asm: a branch of C++ would have ptxas copy what is loaded into the
// registers of the zeros, and wait for it there.
PTX_DEVICE U32x4 ldg_v4_u32_if(bool exists, const void* p) {
  U32x4 v;
  asm volatile("{ .reg .pred exists;\n"
               "setp.ne.b32 exists, %5, 0;\n"
               "mov.b32 %0, 0;\n"
               "mov.b32 %1, 0;\n"
               "mov.b32 %2, 0;\n"
               "mov.b32 %3, 0;\n"
               "@exists ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4]; }"
               : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
               : "l"(p), "r"(static_cast<int>(exists)));
  return v;
}

// "ld.global": data that the same launch may write later.
PTX_DEVICE uint32_t ld_global_u32(const void* p) {
  uint32_t value;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

PTX_DEVICE float ld_global_f32(const void* p) {
  float value;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(p) : "memory");
  return value;
}

// 16 bytes, 16-byte aligned.
PTX_DEVICE U32x4 ld_global_v4_u32(const void* p) {
  U32x4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}

// "st.global".
PTX_DEVICE void stg_f32(float* p, float value) {
  asm volatile("st.global.f32 [%0], %1;" ::"l"(p), "f"(value) : "memory");
}
PTX_DEVICE void stg_u32(void* p, uint32_t value) {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}
// 8 bytes, 8-byte aligned.
PTX_DEVICE void stg_v2_u32(void* p, uint32_t x, uint32_t y) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(x), "r"(y) : "memory");
}

// 16 bytes, 16-byte aligned.
PTX_DEVICE void stg_v4_u32(void* p, U32x4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// A word of host memory that the host reads while the kernel runs. "st.relaxed.sys.global.u32": whole, in no order with
// anything else, and no read-modify-write, which would not be atomic to the host's over PCIe.
PTX_DEVICE void st_relaxed_sys_u32(uint32_t* p, uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

// Adds to a word that many CTAs may touch; integers, so the order does not matter. "red.global.add.u32".
PTX_DEVICE void red_add_u32(uint32_t* p, uint32_t value) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

}  // namespace ptx
