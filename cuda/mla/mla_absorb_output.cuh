// Attention over latents, back in the space of the heads' values:
// out[t, h, 0:n] = latent[t, h, 0:512] . W[h, first_row : first_row + n, 0:512]^T.
#pragma once
#include "mla/head_gemm.cuh"

namespace mla {

template <class Config>
struct MlaAbsorbOutput : HeadGemmConfig, Config {
  static constexpr Major kMajor = Major::kK;
};

template <class Config>
using MlaAbsorbOutputStorage = HeadGemmStorage<MlaAbsorbOutput<Config>>;

template <class Config>
PTX_DEVICE void mla_absorb_output_kernel(const HeadGemmParams& params) {
  head_gemm<MlaAbsorbOutput<Config>>(params);
}

}  // namespace mla
