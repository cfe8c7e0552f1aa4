// The choice of a token's experts, by one warp: scores, groups, the best K, weights.
//
//   logit[t, e] = sum over chunks of logits[chunk, t, e]         s = sigmoid(logit), sqrt(softplus(logit)), or softmax over e
//   c = s + bias                                                 chosen by c, weighted by s
//   group score = the sum of its two best c, or its best c       the best groups are kept, the others leave
//   ids[t, :] = the best K of c                                  weights = s / (sum of the K + 1e-20) * route_scale
//
//   logits FP32 [chunks, t, experts] · bias FP32 [experts] · ids int32 [t, K + shared] · weights FP32 [t, K + shared]
//
// Equals go to the lowest index. NaN and -Inf are never chosen; where fewer than K are left, id -1 with weight 0. Inf and
// NaN of a token that is not padding are told of, but for a bias of -Inf, which is how an expert is left out.
//
// Lane l holds experts l, l + 32, ..., at most kRows of them.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

#include "faults.h"
#include "hopper/cta/exp.cuh"
#include "hopper/cta/log1p.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/cta/warp_reduce.cuh"
#include "indices.cuh"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "router/gate_key.cuh"
#include "router/params.h"

namespace router {

constexpr float kGateInfinity = std::numeric_limits<float>::infinity();

// rS: of a lane's experts; NaN where there is none.
template <uint32_t kRows>
using GateScores = float[kRows];

template <uint32_t kRows>
PTX_DEVICE void load_logits(const GateSelectParams& params, uint64_t t, GateScores<kRows>& rS) {
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    rS[i] = gate_expert(i) < params.experts ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float* logits = params.logits + t * params.logits_pitch;
  // Experts within a chunk, so that the loads of a chunk are under way together.
#pragma unroll 1
  for (uint32_t chunk = 0; chunk < params.chunks; ++chunk) {
    GateScores<kRows> rPart = {};
#pragma unroll
    for (uint32_t i = 0; i < kRows; ++i) {
      if (gate_expert(i) >= params.experts) continue;
      rPart[i] = ptx::ldg_f32(logits + chunk * params.chunk_stride + gate_expert(i));
    }
#pragma unroll
    for (uint32_t i = 0; i < kRows; ++i) rS[i] += rPart[i];
  }
}

PTX_DEVICE bool is_finite(float x) { return x - x == 0.0f; }

// Whether the logits of the lane's experts are finite.
template <uint32_t kRows>
PTX_DEVICE bool are_finite(const GateSelectParams& params, const GateScores<kRows>& rS) {
  bool finite = true;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) finite = finite && (gate_expert(i) >= params.experts || is_finite(rS[i]));
  return finite;
}

// Over the logits that are numbers, with the largest subtracted; its own share is 1 even when it is infinite.
template <uint32_t kRows>
PTX_DEVICE void softmax(GateScores<kRows>& rS) {
  uint32_t key = 0;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) key = order_key(rS[i]) > key ? order_key(rS[i]) : key;
  const float largest = value_of_key(ptx::reduce_max_u32(key));
  float sum = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    rS[i] = rS[i] == largest ? 1.0f : exp_f32(rS[i] - largest);
    if (rS[i] == rS[i]) sum += rS[i];
  }
  sum = warp_reduce<32>(sum, [](float a, float b) { return a + b; });
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) rS[i] = rS[i] / sum;
}

// sqrt(log(1 + exp(x))), of which nothing overflows on the way.
PTX_DEVICE float sqrt_softplus_f32(float x) {
  const bool positive = x > 0.0f;
  const float log = log1p_f32(exp_f32(positive ? -x : x));
  return ptx::sqrt_rn(positive ? x + log : log);
}

// Returns whether the logits of the lane's experts are finite.
template <uint32_t kRows>
PTX_DEVICE bool make_scores(const GateSelectParams& params, uint64_t t, GateScores<kRows>& rS) {
  load_logits(params, t, rS);
  const bool finite = are_finite(params, rS);
  if (params.scoring == GATE_SOFTMAX) {
    softmax(rS);
  } else if (params.scoring == GATE_SIGMOID) {
#pragma unroll
    for (uint32_t i = 0; i < kRows; ++i) rS[i] = sigmoid_f32(rS[i]);
  } else {
#pragma unroll
    for (uint32_t i = 0; i < kRows; ++i) rS[i] = sqrt_softplus_f32(rS[i]);
  }
  if (params.scores == nullptr) return finite;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    if (gate_expert(i) < params.experts) ptx::stg_f32(params.scores + t * params.scores_pitch + gate_expert(i), rS[i]);
  }
  return finite;
}

// The key of the score of group `g`.
template <uint32_t kRows>
PTX_DEVICE uint32_t group_key(const GateSelectParams& params, const GateKeys<kRows>& rKey,
                              const GateKeys<kRows>& rGroup, uint32_t g) {
  const Best first = best_of(rKey, [&](uint32_t i) { return rGroup[i] == g; });
  if (params.group_score == GATE_GROUP_MAX) return first.key;
  const Best second = best_of(rKey, [&](uint32_t i) { return rGroup[i] == g && gate_expert(i) != first.expert; });
  if (second.key == 0) return first.key;
  return order_key(value_of_key(first.key) + value_of_key(second.key));
}

// Takes the experts of all but the best groups out of rKey.
template <uint32_t kRows>
PTX_DEVICE void keep_groups(const GateSelectParams& params, GateKeys<kRows>& rKey) {
  const uint32_t lane = ptx::thread_idx() % 32;
  const uint32_t group_size = params.experts / params.groups;
  GateKeys<kRows> rGroup;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) rGroup[i] = gate_expert(i) / group_size;
  uint32_t of_lane = 0;  // the key of group `lane`
  for (uint32_t g = 0; g < params.groups; ++g) {
    const uint32_t key = group_key(params, rKey, rGroup, g);
    if (g == lane) of_lane = key;
  }
  uint32_t kept = 0;
  for (uint32_t i = 0; i < params.kept_groups; ++i) {
    const uint32_t key = ptx::reduce_max_u32(of_lane);
    const uint32_t group = ptx::reduce_min_u32(of_lane == key ? lane : UINT32_MAX);
    kept |= 1u << group;
    if (lane == group) of_lane = 0;
  }
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    if (rGroup[i] < params.groups && (kept >> rGroup[i] & 1) == 0) rKey[i] = 0;
  }
}

// What may be chosen: c > -Inf, in a group that is kept. Returns whether the biases of the lane's experts are finite or -Inf.
template <uint32_t kRows>
PTX_DEVICE bool make_keys(const GateSelectParams& params, const GateScores<kRows>& rS, GateKeys<kRows>& rKey) {
  bool sane = true;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    float bias = 0.0f;
    if (params.bias != nullptr && gate_expert(i) < params.experts) bias = ptx::ldg_f32(params.bias + gate_expert(i));
    sane = sane && bias < kGateInfinity;
    const float c = rS[i] + bias;
    rKey[i] = c > -kGateInfinity ? order_key(c) : 0;
  }
  if (params.kept_groups < params.groups) keep_groups(params, rKey);
  return sane;
}

// A choice made elsewhere; -1 for what is no expert.
PTX_DEVICE int32_t fixed_id(const GateSelectParams& params, uint64_t t, uint32_t route) {
  const int32_t id = load_index(params.fixed_ids, t, route);
  if (static_cast<uint32_t>(id) < params.experts) return id;
  if (id != -1 && ptx::thread_idx() % 32 == 0) report_fault(params.error_words, FAULT_EXPERT_ID);
  return -1;
}

// The score of expert `id` in every lane; 0 for -1 and for NaN.
template <uint32_t kRows>
PTX_DEVICE float score_of(const GateScores<kRows>& rS, int32_t id) {
  float score = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < kRows; ++i) {
    if (gate_expert(i) == static_cast<uint32_t>(id) && rS[i] == rS[i]) score = rS[i];
  }
  return std::bit_cast<float>(ptx::reduce_max_u32(std::bit_cast<uint32_t>(score)));
}

// The route that a lane stores.
struct GateRoute {
  int32_t id;
  float weight;
};

// Routed experts in lanes 0 .. top_k - 1, shared ones in the lanes behind.
template <uint32_t kRows>
PTX_DEVICE GateRoute choose(const GateSelectParams& params, uint64_t t, const GateScores<kRows>& rS, GateKeys<kRows>& rKey) {
  const uint32_t lane = ptx::thread_idx() % 32;
  GateRoute mine = {static_cast<int32_t>(params.experts + lane - params.top_k), 1.0f};
  float sum = 0.0f;
  for (uint32_t route = 0; route < params.top_k; ++route) {
    const int32_t id = params.fixed_ids.words != nullptr ? fixed_id(params, t, route) : take_best(rKey);
    const float score = score_of(rS, id);
    sum += score;
    if (lane == route) mine = {id, score};
  }
  if (lane >= params.top_k) return mine;
  const float share = params.normalize != 0 ? mine.weight / (sum + 1e-20f) : mine.weight;
  return {mine.id, share * params.route_scale};
}

// The choice for token t, of up to 32 * kRows experts, stored; of lane k the route k, if the token has as many.
template <uint32_t kRows>
PTX_DEVICE GateRoute route_token(const GateSelectParams& params, uint64_t t) {
  const uint32_t lane = ptx::thread_idx() % 32;
  GateScores<kRows> rS;
  bool sane = make_scores(params, t, rS);
  GateKeys<kRows> rKey = {};
  if (params.fixed_ids.words == nullptr) sane = make_keys(params, rS, rKey) && sane;
  GateRoute route = choose(params, t, rS, rKey);
  if (params.mask != nullptr && ptx::ldg_u32(params.mask + t) == 0) {
    route = {-1, 0.0f};
  } else if (!sane) {
    report_fault(params.error_words, FAULT_NONFINITE_SCORE);
  }
  if (lane < params.top_k + params.shared) {
    ptx::stg_u32(params.ids + t * params.ids_pitch + lane, static_cast<uint32_t>(route.id));
    ptx::stg_f32(params.weights + t * params.weights_pitch + lane, route.weight);
  }
  return route;
}

}  // namespace router
