// The TMA descriptor, in plain C: one type for the kernels (C++), for the host (Rust, through bindgen) and for the emulator.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
#define DK_ALIGN128 alignas(128)
#else
#define DK_ALIGN128 _Alignas(128)
#endif

// A TMA descriptor: `CUtensorMap` on a GPU, the emulator's own encoding otherwise. CUDA 13 asks for 128-byte alignment.
typedef struct TensorMap {
  DK_ALIGN128 uint8_t opaque[128];
} TensorMap;
