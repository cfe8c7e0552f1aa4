// The loss that keeps one sequence from using few experts (DeepSeek-V3, section 2.1.2).
//
//   f_i = experts / (K T) * the number of tokens whose K best scores contain expert i, without groups and bias
//   P_i = the mean over tokens of s[t, i] / sum over j of s[t, j]          loss = alpha * sum over i of f_i P_i
//
//   scores FP32 [sequences * T, experts] · loss FP32 [sequences]
//
// Schedule: one CTA per sequence, a warp takes every eighth token and keeps counts and sums of its tokens in registers;
// lane l holds experts l, l + 32, .... Then the warps' sums are added in the order of the warps.
#pragma once
#include <bit>
#include <cstdint>

#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/warp_reduce.cuh"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "router/gate_key.cuh"
#include "router/params.h"

namespace router {

template <class Config>
struct SequenceBalanceLossStorage {
  uint32_t count[Config::kWarps][Config::kExperts];
  float share[Config::kWarps][Config::kExperts];
};

// What a warp knows of its tokens, per expert.
template <uint32_t kRows>
struct ExpertUse {
  uint32_t count[kRows];  // tokens that would choose it
  float share[kRows];     // its sum of s / sum of s
};

PTX_DEVICE float warp_sum(float value) {
  return warp_reduce<32>(value, [](float a, float b) { return a + b; });
}

template <uint32_t kRows>
PTX_DEVICE void add_token(const SequenceBalanceLossParams& params, uint64_t t, ExpertUse<kRows>& use) {
  float s[kRows];
  GateKeys<kRows> rKey;
  float sum = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    const bool exists = gate_expert(i) < params.experts;
    s[i] = exists ? ptx::ldg_f32(params.scores + t * params.scores_pitch + gate_expert(i)) : 0.0f;
    rKey[i] = exists ? order_key(s[i]) : 0;
    sum += s[i];
  }
  sum = warp_sum(sum);
  for (uint32_t route = 0; route < params.top_k; ++route) {
    const uint32_t id = static_cast<uint32_t>(take_best(rKey));
#pragma unroll
    for (uint32_t i = 0; i < kRows; ++i) use.count[i] += gate_expert(i) == id;
  }
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) use.share[i] += s[i] / sum;
}

// Of the storage: table 0 has the counts, table 1, behind it, the shares.
template <class Config>
PTX_DEVICE uint32_t balance_entry(uint32_t table, uint32_t warp, uint32_t expert) {
  return ptx::smem_base() + ((table * Config::kWarps + warp) * Config::kExperts + expert) * sizeof(float);
}

// f_i * P_i of one expert.
template <class Config>
PTX_DEVICE float balance_term(const SequenceBalanceLossParams& params, uint32_t expert) {
  uint32_t count = 0;
  float share = 0.0f;
#pragma unroll
  for (uint32_t warp = 0; warp < Config::kWarps; ++warp) {
    count += ptx::lds_u32(balance_entry<Config>(0, warp, expert));
    share += ptx::lds_f32(balance_entry<Config>(1, warp, expert));
  }
  const uint64_t choices = static_cast<uint64_t>(params.top_k) * params.length;
  if (choices == 0) return 0.0f;
  const float f = static_cast<float>(static_cast<uint64_t>(count) * params.experts) / static_cast<float>(choices);
  return f * (share / static_cast<float>(params.length));
}

template <class Config>
PTX_DEVICE void sequence_balance_loss_kernel(const SequenceBalanceLossParams& params) {
  static_assert(Config::kThreads == Config::kWarps * 32);
  enter_grid();
  const uint32_t warp = ptx::thread_idx() / 32;
  constexpr uint32_t kRows = Config::kExperts / 32;
  ExpertUse<kRows> use = {};
  for (uint32_t t = warp; t < params.length; t += Config::kWarps) {
    add_token(params, static_cast<uint64_t>(ptx::cta_idx()) * params.length + t, use);
  }
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    ptx::sts_u32(balance_entry<Config>(0, warp, gate_expert(i)), use.count[i]);
    ptx::sts_f32(balance_entry<Config>(1, warp, gate_expert(i)), use.share[i]);
  }
  ptx::syncthreads();
  if (warp != 0) return;
  float loss = 0.0f;
#pragma unroll 1
  for (uint32_t i = 0; i < kRows; ++i) {
    if (gate_expert(i) < params.experts) loss += balance_term<Config>(params, gate_expert(i));
  }
  loss = warp_sum(loss);
  if (ptx::thread_idx() == 0) ptx::stg_f32(params.loss + ptx::cta_idx(), params.alpha * loss);
}

}  // namespace router
