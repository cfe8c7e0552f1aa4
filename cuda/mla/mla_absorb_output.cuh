// Attention over latents, back in the space of the heads' values:
// out[t, h, 0:128] = latent[t, h, 0:512] . W[h, 128:256, 0:512]^T.
#pragma once
#include "mla/head_gemm.cuh"

namespace mla {

struct MlaAbsorbOutput : HeadGemmConfig {
  static constexpr Major kMajor = Major::kK;
  static constexpr int kK = MLA_LATENT, kN = MLA_VALUE, kFirstRow = MLA_NOPE;
  static constexpr int kBlockN = 128, kStages = 4;
};

constexpr uint32_t mla_absorb_output_threads = MlaAbsorbOutput::kThreads;
constexpr uint32_t mla_absorb_output_smem_bytes = sizeof(HeadGemmStorage<MlaAbsorbOutput>);

PTX_DEVICE void mla_absorb_output_kernel(const HeadGemmParams& params) { head_gemm<MlaAbsorbOutput>(params); }

}  // namespace mla
