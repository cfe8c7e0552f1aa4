// The query without its rotated part, absorbed into the latent space of the KV cache:
// q_latent[t, h, 0:512] = q[t, h, 0:128] . W[h, 0:128, 0:512].
#pragma once
#include "mla/head_gemm.cuh"

namespace mla {

struct MlaAbsorbQuery : HeadGemmConfig {
  static constexpr Major kMajor = Major::kN;
  static constexpr int kK = MLA_NOPE, kN = MLA_LATENT, kFirstRow = 0;
  static constexpr int kBlockN = 256, kStages = 2;
};

constexpr uint32_t mla_absorb_query_threads = MlaAbsorbQuery::kThreads;
constexpr uint32_t mla_absorb_query_smem_bytes = sizeof(HeadGemmStorage<MlaAbsorbQuery>);

PTX_DEVICE void mla_absorb_query_kernel(const HeadGemmParams& params) { head_gemm<MlaAbsorbQuery>(params); }

}  // namespace mla
