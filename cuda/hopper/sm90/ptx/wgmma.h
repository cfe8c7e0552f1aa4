// wgmma: one warpgroup multiplies a 64 x K tile, in shared memory or in its registers, by a K x N tile in shared memory,
// asynchronously. PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".
//
// The accumulator is 64 x N FP32. Register 4j + i of thread t holds row 16 (t/32) + (t%32)/4 + 8 (i/2) and column
// 8j + 2 (t%4) + i%2. Its array belongs to the tensor core from the first wgmma to the wait that covers it.
#pragma once
#include "ptx/target.h"

namespace ptx {

// Orders the warpgroup's register accesses before the next wgmma: before the first one, and again whenever the
// registers were touched. "wgmma.fence.sync.aligned".
PTX_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes the open group of wgmmas. "wgmma.commit_group.sync.aligned".
PTX_DEVICE void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `Pending` groups are unfinished; `d`, an accumulator of a finished group, is ours again. The
// empty asm keeps the compiler from moving its reads above the wait. "wgmma.wait_group.sync.aligned".
template <int Pending, int Registers>
PTX_DEVICE void wgmma_wait_group(float (&d)[Registers]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#pragma unroll
  for (int i = 0; i < Registers; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The same, behind products whose A lay in registers: those are ours again too.
template <int Pending, int Registers, int Steps>
PTX_DEVICE void wgmma_wait_group(float (&d)[Registers], uint32_t (&a)[Steps][4]) {
  wgmma_wait_group<Pending>(d);
#pragma unroll
  for (int i = 0; i < Steps; ++i) asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

// Operand lists, expanded by the preprocessor: asm wants each register by number.
#define PTX_F4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define PTX_F8(i) PTX_F4(i), PTX_F4((i) + 4)
#define PTX_F16(i) PTX_F8(i), PTX_F8((i) + 8)
#define PTX_F32(i) PTX_F16(i), PTX_F16((i) + 16)
#define PTX_F48(i) PTX_F32(i), PTX_F16((i) + 32)
#define PTX_F64(i) PTX_F32(i), PTX_F32((i) + 32)
#define PTX_F72(i) PTX_F64(i), PTX_F8((i) + 64)
#define PTX_F80(i) PTX_F64(i), PTX_F16((i) + 64)
#define PTX_F96(i) PTX_F64(i), PTX_F32((i) + 64)
#define PTX_F128(i) PTX_F64(i), PTX_F64((i) + 64)
#define PTX_TEN(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define PTX_R4 "%0, %1, %2, %3"
#define PTX_R8 PTX_R4 ", %4, %5, %6, %7"
#define PTX_R10 PTX_R8 ", %8, %9"
#define PTX_R16 PTX_R10 ", %10, %11, %12, %13, %14, %15"
#define PTX_R32 PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", %30, %31"
#define PTX_R48 \
  PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", " PTX_TEN(3) ", %40, %41, %42, %43, %44, %45, %46, %47"
#define PTX_R64 \
  PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", " PTX_TEN(3) ", " PTX_TEN(4) ", " PTX_TEN(5) ", %60, %61, %62, %63"
#define PTX_R72                                                                                                        \
  PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", " PTX_TEN(3) ", " PTX_TEN(4) ", " PTX_TEN(5) ", " PTX_TEN(6) ", %70, %71"
#define PTX_R80                                                                                                  \
  PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", " PTX_TEN(3) ", " PTX_TEN(4) ", " PTX_TEN(5) ", " PTX_TEN(6) ", "   \
          PTX_TEN(7)
#define PTX_R96                                                                                                  \
  PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", " PTX_TEN(3) ", " PTX_TEN(4) ", " PTX_TEN(5) ", " PTX_TEN(6) ", "   \
          PTX_TEN(7) ", " PTX_TEN(8) ", %90, %91, %92, %93, %94, %95"
#define PTX_R128                                                                                                   \
  PTX_R10 ", " PTX_TEN(1) ", " PTX_TEN(2) ", " PTX_TEN(3) ", " PTX_TEN(4) ", " PTX_TEN(5) ", " PTX_TEN(6) ", "     \
          PTX_TEN(7) ", " PTX_TEN(8) ", " PTX_TEN(9) ", " PTX_TEN(10) ", " PTX_TEN(11) ", %120, %121, %122, %123, " \
          "%124, %125, %126, %127"

// One overload per N: R registers, then the two descriptors and the flag that keeps (1) or overwrites (0) D.
#define PTX_WGMMA(function, shape, tail, R, da, db, keep)                                             \
  PTX_DEVICE void function(float (&d)[R], uint64_t desc_a, uint64_t desc_b, bool accumulate) {        \
    asm volatile("{ .reg .pred p;\nsetp.ne.b32 p, %" #keep                                            \
                 ", 0;\n"                                                                             \
                 "wgmma.mma_async.sync.aligned." shape " {" PTX_R##R "}, %" #da ", %" #db ", p, 1, 1" \
                 tail "; }"                                                                           \
                 : PTX_F##R(0)                                                                        \
                 : "l"(desc_a), "l"(desc_b), "r"(static_cast<int>(accumulate)));                      \
  }

// D = A . B^T (+ D), A 64 x 32 and B N x 32 E4M3, both K-major. "wgmma.mma_async.m64nNk32.f32.e4m3.e4m3".
PTX_WGMMA(wgmma_k32_e4m3, "m64n8k32.f32.e4m3.e4m3", "", 4, 4, 5, 6)
PTX_WGMMA(wgmma_k32_e4m3, "m64n16k32.f32.e4m3.e4m3", "", 8, 8, 9, 10)
PTX_WGMMA(wgmma_k32_e4m3, "m64n32k32.f32.e4m3.e4m3", "", 16, 16, 17, 18)
PTX_WGMMA(wgmma_k32_e4m3, "m64n64k32.f32.e4m3.e4m3", "", 32, 32, 33, 34)
PTX_WGMMA(wgmma_k32_e4m3, "m64n96k32.f32.e4m3.e4m3", "", 48, 48, 49, 50)
PTX_WGMMA(wgmma_k32_e4m3, "m64n128k32.f32.e4m3.e4m3", "", 64, 64, 65, 66)
PTX_WGMMA(wgmma_k32_e4m3, "m64n144k32.f32.e4m3.e4m3", "", 72, 72, 73, 74)
PTX_WGMMA(wgmma_k32_e4m3, "m64n160k32.f32.e4m3.e4m3", "", 80, 80, 81, 82)
PTX_WGMMA(wgmma_k32_e4m3, "m64n192k32.f32.e4m3.e4m3", "", 96, 96, 97, 98)
PTX_WGMMA(wgmma_k32_e4m3, "m64n256k32.f32.e4m3.e4m3", "", 128, 128, 129, 130)

// D = A . B^T (+ D), A 64 x 16 and B N x 16 BF16, both K-major. "wgmma.mma_async.m64nNk16.f32.bf16.bf16".
PTX_WGMMA(wgmma_k16_bf16, "m64n8k16.f32.bf16.bf16", ", 0, 0", 4, 4, 5, 6)
PTX_WGMMA(wgmma_k16_bf16, "m64n16k16.f32.bf16.bf16", ", 0, 0", 8, 8, 9, 10)
PTX_WGMMA(wgmma_k16_bf16, "m64n32k16.f32.bf16.bf16", ", 0, 0", 16, 16, 17, 18)
PTX_WGMMA(wgmma_k16_bf16, "m64n64k16.f32.bf16.bf16", ", 0, 0", 32, 32, 33, 34)
PTX_WGMMA(wgmma_k16_bf16, "m64n96k16.f32.bf16.bf16", ", 0, 0", 48, 48, 49, 50)
PTX_WGMMA(wgmma_k16_bf16, "m64n128k16.f32.bf16.bf16", ", 0, 0", 64, 64, 65, 66)
PTX_WGMMA(wgmma_k16_bf16, "m64n144k16.f32.bf16.bf16", ", 0, 0", 72, 72, 73, 74)
PTX_WGMMA(wgmma_k16_bf16, "m64n160k16.f32.bf16.bf16", ", 0, 0", 80, 80, 81, 82)
PTX_WGMMA(wgmma_k16_bf16, "m64n192k16.f32.bf16.bf16", ", 0, 0", 96, 96, 97, 98)
PTX_WGMMA(wgmma_k16_bf16, "m64n256k16.f32.bf16.bf16", ", 0, 0", 128, 128, 129, 130)

// D = A . B (+ D), A 64 x 16 BF16, K-major, and B 16 x N BF16, N-major: the last immediate, imm-trans-b, is 1.
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n8k16.f32.bf16.bf16", ", 0, 1", 4, 4, 5, 6)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n16k16.f32.bf16.bf16", ", 0, 1", 8, 8, 9, 10)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n32k16.f32.bf16.bf16", ", 0, 1", 16, 16, 17, 18)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n64k16.f32.bf16.bf16", ", 0, 1", 32, 32, 33, 34)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n96k16.f32.bf16.bf16", ", 0, 1", 48, 48, 49, 50)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n128k16.f32.bf16.bf16", ", 0, 1", 64, 64, 65, 66)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n144k16.f32.bf16.bf16", ", 0, 1", 72, 72, 73, 74)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n160k16.f32.bf16.bf16", ", 0, 1", 80, 80, 81, 82)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n192k16.f32.bf16.bf16", ", 0, 1", 96, 96, 97, 98)
PTX_WGMMA(wgmma_k16_bf16_mn, "m64n256k16.f32.bf16.bf16", ", 0, 1", 128, 128, 129, 130)

// One overload per N: R registers of D, then four of A, the descriptor of B and the flag.
#define PTX_WGMMA_RS(shape, R, a0, a1, a2, a3, db, keep)                                                            \
  PTX_DEVICE void wgmma_rs_k16_bf16_mn(float (&d)[R], uint32_t (&a)[4], uint64_t desc_b, bool accumulate) {         \
    asm volatile("{ .reg .pred p;\nsetp.ne.b32 p, %" #keep                                                          \
                 ", 0;\n"                                                                                           \
                 "wgmma.mma_async.sync.aligned." shape " {" PTX_R##R "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3      \
                 "}, %" #db ", p, 1, 1, 1; }"                                                                       \
                 : PTX_F##R(0)                                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b), "r"(static_cast<int>(accumulate)));     \
  }

// As wgmma_k16_bf16_mn, with A in registers: two columns of K in each, the first one in the low half, in the order of an
// accumulator of 64 x 16. They too belong to the tensor core until the wait, and may not even be read.
PTX_WGMMA_RS("m64n8k16.f32.bf16.bf16", 4, 4, 5, 6, 7, 8, 9)
PTX_WGMMA_RS("m64n16k16.f32.bf16.bf16", 8, 8, 9, 10, 11, 12, 13)
PTX_WGMMA_RS("m64n32k16.f32.bf16.bf16", 16, 16, 17, 18, 19, 20, 21)
PTX_WGMMA_RS("m64n64k16.f32.bf16.bf16", 32, 32, 33, 34, 35, 36, 37)
PTX_WGMMA_RS("m64n96k16.f32.bf16.bf16", 48, 48, 49, 50, 51, 52, 53)
PTX_WGMMA_RS("m64n128k16.f32.bf16.bf16", 64, 64, 65, 66, 67, 68, 69)
PTX_WGMMA_RS("m64n144k16.f32.bf16.bf16", 72, 72, 73, 74, 75, 76, 77)
PTX_WGMMA_RS("m64n160k16.f32.bf16.bf16", 80, 80, 81, 82, 83, 84, 85)
PTX_WGMMA_RS("m64n192k16.f32.bf16.bf16", 96, 96, 97, 98, 99, 100, 101)
PTX_WGMMA_RS("m64n256k16.f32.bf16.bf16", 128, 128, 129, 130, 131, 132, 133)

#undef PTX_WGMMA_RS
#undef PTX_WGMMA
#undef PTX_R128
#undef PTX_R96
#undef PTX_R80
#undef PTX_R72
#undef PTX_R64
#undef PTX_R48
#undef PTX_R32
#undef PTX_R16
#undef PTX_R10
#undef PTX_R8
#undef PTX_R4
#undef PTX_TEN
#undef PTX_F128
#undef PTX_F96
#undef PTX_F80
#undef PTX_F72
#undef PTX_F64
#undef PTX_F48
#undef PTX_F32
#undef PTX_F16
#undef PTX_F8
#undef PTX_F4

}  // namespace ptx
