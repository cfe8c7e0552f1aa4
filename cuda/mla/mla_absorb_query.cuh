// The query without its rotated part, absorbed into the latent space of the KV cache:
// q_latent[t, h, 0:512] = q[t, h, 0:128] . W[h, 0:128, 0:512].
#pragma once
#include "mla/head_gemm.cuh"

namespace mla {

template <class Config>
struct MlaAbsorbQuery : HeadGemmConfig, Config {
  static constexpr Major kMajor = Major::kN;
  static constexpr int kK = MLA_NOPE, kN = MLA_LATENT, kFirstRow = 0;
};

template <class Config>
using MlaAbsorbQueryStorage = HeadGemmStorage<MlaAbsorbQuery<Config>>;

template <class Config>
PTX_DEVICE void mla_absorb_query_kernel(const HeadGemmParams& params) {
  head_gemm<MlaAbsorbQuery<Config>>(params);
}

}  // namespace mla
