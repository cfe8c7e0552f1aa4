// A row of the KV cache: the latent vector of a token and its rotated key, if it has one.
//
//   BF16, 1152 bytes: latent BF16 [512] · key BF16 [64]
//   FP8, 656 bytes:   latent E4M3 [512] · scales FP32 [4], one per 128 codes · key BF16 [64]
//   FP8 per tensor, 576 bytes:  latent E4M3 [512] · key E4M3 [64]; one FP32 scale for the whole cache lies elsewhere
//
// The key comes last: a row without one is that much shorter.
#pragma once
#include <cstdint>

#include "mla/params.h"

namespace mla {

constexpr uint32_t kKvLatent = MLA_LATENT;
constexpr uint32_t kKvRope = MLA_ROPE;
constexpr uint32_t kKvScaleBlock = 128;  // codes under one scale

// Bytes from the start of a row.
constexpr uint32_t kKvBf16Rope = kKvLatent * sizeof(uint16_t);
constexpr uint32_t kKvFp8Scales = kKvLatent;
constexpr uint32_t kKvFp8Rope = kKvFp8Scales + kKvLatent / kKvScaleBlock * sizeof(float);

constexpr uint32_t kKvFp8RowBytes = kKvFp8Rope + kKvRope * sizeof(uint16_t);
static_assert(kKvFp8RowBytes == 656, "a published layout");

}  // namespace mla
