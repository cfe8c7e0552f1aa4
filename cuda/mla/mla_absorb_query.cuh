// The query without its rotated part, absorbed into the latent space of the KV cache:
// q_latent[t, h, 0:512] = q[t, h, 0:k] . W[h, 0:k, 0:512].
#pragma once
#include "mla/head_gemm.cuh"

namespace mla {

template <class Config>
struct MlaAbsorbQuery : HeadGemmConfig, Config {
  static constexpr Major kMajor = Major::kN;
};

template <class Config>
using MlaAbsorbQueryStorage = HeadGemmStorage<MlaAbsorbQuery<Config>>;

template <class Config>
PTX_DEVICE void mla_absorb_query_kernel(const HeadGemmParams& params) {
  head_gemm<MlaAbsorbQuery<Config>>(params);
}

}  // namespace mla
