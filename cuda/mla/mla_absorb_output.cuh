// Attention over latents, back in the space of the heads' values:
// out[t, h, 0:128] = latent[t, h, 0:512] . W[h, 128:256, 0:512]^T.
#pragma once
#include "mla/head_gemm.cuh"

namespace mla {

template <class Config>
struct MlaAbsorbOutput : HeadGemmConfig, Config {
  static constexpr Major kMajor = Major::kK;
  static constexpr int kK = MLA_LATENT, kN = MLA_VALUE, kFirstRow = MLA_NOPE;
};

template <class Config>
using MlaAbsorbOutputStorage = HeadGemmStorage<MlaAbsorbOutput<Config>>;

template <class Config>
PTX_DEVICE void mla_absorb_output_kernel(const HeadGemmParams& params) {
  head_gemm<MlaAbsorbOutput<Config>>(params);
}

}  // namespace mla
