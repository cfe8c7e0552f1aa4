// Shared memory. An address is a 32-bit offset in the shared window of the CTA; there are no pointers to shared memory.
#pragma once
#include "ptx/target.h"

namespace ptx {

// First byte of the kernel's dynamic shared memory, 1024-byte aligned (the span of a 128-byte swizzle).
PTX_DEVICE uint32_t smem_base() {
  extern __shared__ __align__(1024) uint8_t dynamic_smem[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_smem));
}

// Names the object at `addr` ("full", 3) in the emulator's reports. No instruction.
PTX_DEVICE void name_shared(uint32_t /*addr*/, const char* /*name*/, uint32_t /*index*/) {}

// "ld.shared".
PTX_DEVICE float lds_f32(uint32_t addr) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(addr));
  return value;
}
PTX_DEVICE uint32_t lds_u32(uint32_t addr) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(addr));
  return value;
}

// 16 bytes, 16-byte aligned.
PTX_DEVICE U32x4 lds_v4_u32(uint32_t addr) {
  U32x4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(addr));
  return v;
}

// "st.shared".
PTX_DEVICE void sts_u32(uint32_t addr, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(addr), "r"(value) : "memory");
}
PTX_DEVICE void sts_f32(uint32_t addr, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(addr), "f"(value) : "memory");
}
// Two neighbouring floats; `addr` is 8-byte aligned.
PTX_DEVICE void sts_v2_f32(uint32_t addr, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(addr), "f"(x), "f"(y) : "memory");
}

// 16 bytes, 16-byte aligned.
PTX_DEVICE void sts_v4_u32(uint32_t addr, U32x4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(addr), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Stores four 8x8 matrices of 16-bit elements: lane 8i + r gives the address of row r of matrix i, lane 4r + q holds
// columns 2q and 2q+1 of row r of every matrix. "stmatrix.sync.aligned.m8n8.x4.shared.b16".
PTX_DEVICE void stmatrix_x4(uint32_t addr, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(addr), "r"(m0), "r"(m1),
               "r"(m2), "r"(m3)
               : "memory");
}
// Two matrices: lanes 0..15 give the row addresses. "stmatrix.sync.aligned.m8n8.x2.shared.b16".
PTX_DEVICE void stmatrix_x2(uint32_t addr, uint32_t m0, uint32_t m1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(addr), "r"(m0), "r"(m1) : "memory");
}

// The reverse of `stmatrix_x4`. "ldmatrix.sync.aligned.m8n8.x4.shared.b16".
PTX_DEVICE void ldmatrix_x4(uint32_t (&m)[4], uint32_t addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(addr));
}

}  // namespace ptx
