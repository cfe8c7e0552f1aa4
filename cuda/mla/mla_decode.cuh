// Fused MLA decode: attention of a few query tokens over a paged latent cache, in which the values are the first 512 of
// the 576 numbers of a key.
//
//   out[row] = sum over keys t of  p[row, t] * k[t, 0:512]        p = softmax over t of  scale * q[row] . k[t]
//
//   q BF16 [tokens, heads, 576], those of a sequence one after the other · k BF16 [pages, page_size, 576], or FP8 with 656
//   or 576 bytes a key · out BF16 [tokens, heads, 512] · lse FP32 [tokens, heads], natural logarithm
//
// Schedule (drawn in README.md): a CTA takes 64 rows and a split of a sequence's keys, 64 at a time. A producer keeps
// two blocks of keys in shared memory. The left warpgroup weighs the left half of the values of a block, scores the next
// block, and hands the weights to the right warpgroup, whose products fill the tensor core during the softmax. Splits and
// the order in them are fixed, so a row's bits depend on its sequence alone; mla_combine.cuh adds up the splits.
#pragma once
#include <bit>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/fragment.h"
#include "hopper/tile/ring.h"
#include "mla/lse.h"
#include "mla/mla_decode_load.cuh"
#include "mla/mla_decode_store.cuh"
#include "mla/mla_decode_tile.cuh"
#include "mla/mla_softmax.cuh"
#include "mla/mla_state.cuh"
#include "mla/params.h"
#include "mla/splits.h"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

namespace mla {

// ------------------------------------------------------------------------------------------------------ products

// rS <- sQ . sK^T: the position first, since its tile arrives first, then the latent in order.
template <class Config>
PTX_DEVICE void score(float (&rS)[Config::kScoreRegisters], MlaDecodeSmem<Config> smem, Ring<Config::kStages> kv) {
  constexpr uint32_t kStepBytes = 32;  // 16 columns
  ptx::wgmma_fence();
#pragma unroll
  for (uint32_t i = 0; i < Config::kTiles; ++i) {
    const uint32_t tile = i == 0 ? Config::kRopeTile : i - 1;
    ptx::mbarrier_wait(smem.kv_full(kv.stage, tile), kv.phase);
    const uint64_t desc_q = descriptor_k_major_128b(smem.q(tile));
    const uint64_t desc_k = descriptor_k_major_128b(smem.kv(kv.stage, tile));
#pragma unroll
    for (uint32_t byte = 0; byte < 128; byte += kStepBytes) {
      ptx::wgmma_k16_bf16(rS, descriptor_advance(desc_q, byte), descriptor_advance(desc_k, byte), i + byte != 0);
    }
  }
  ptx::wgmma_commit_group();
}

// rO += P . sV, for one half of the values: the keys' own tiles, read across. `multiply(step, desc_v)` adds the products of
// 16 keys.
template <class Config, class Multiply>
PTX_DEVICE void weigh(MlaDecodeSmem<Config> smem, uint32_t stage, uint32_t half, Multiply multiply) {
  const uint64_t desc_v = descriptor_mn_major_128b(smem.kv(stage, half * Config::kHalfTiles), Config::kTileBytes);
  ptx::wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < Config::kKeySteps; ++step) {
    multiply(step, descriptor_advance(desc_v, step * 16 * 128));
  }
  ptx::wgmma_commit_group();
}

// Values of keys past the end of the sequence become 0: what lies there may be NaN, and 0 * NaN is not 0. The
// producer of an FP8 cache has written zeros already.
template <class Config>
PTX_DEVICE void clear_values(MlaDecodeSmem<Config> smem, uint32_t stage, uint32_t half, uint32_t keys) {
  if (Config::kCache != Config::Cache::kBf16 || keys >= Config::kBlockKeys) return;
  const uint32_t chunks = (Config::kBlockKeys - keys) * 8;  // of 16 bytes, per tile
  warpgroup_sync(half);  // no warp of this warpgroup reads the keys any more
#pragma unroll 1
  for (uint32_t i = ptx::thread_idx() % 128; i < Config::kHalfTiles * chunks; i += 128) {
    const uint32_t sTile = smem.kv(stage, half * Config::kHalfTiles + i / chunks);
    ptx::sts_v4_u32(sTile + keys * 128 + i % chunks * 16, {});
  }
  warpgroup_fence_async(half);
}

// ----------------------------------------------------------------------------------------------- left warpgroup

// sScale <- a factor per row, and the news that it is there.
template <class Config>
PTX_DEVICE void publish_scale(MlaDecodeSmem<Config> smem, Ring<1>& p, const float (&factor)[2]) {
  const uint32_t thread = ptx::thread_idx() % 128;
  if (thread % 4 == 0) {
    ptx::sts_f32(smem.scale(fragment_row(thread)), factor[0]);
    ptx::sts_f32(smem.scale(fragment_row(thread) + 8), factor[1]);
  }
  warp_arrive(smem.p_pipeline().full(0));
  p.advance();
}

// sP, sScale <- the weights of a block, when the right warpgroup has read those of the block before.
template <class Config>
PTX_DEVICE void publish(MlaDecodeSmem<Config> smem, Ring<1>& p, const uint32_t (&rP)[Config::kKeySteps][4],
                        const float (&rescale)[2]) {
  smem.p_pipeline().await_empty(p);
  store_fragment_bf16<128>(ptx::thread_idx() % 128, rP, [&](uint32_t, uint32_t row) { return smem.p() + row * 128; });
  ptx::fence_proxy_async_shared();
  publish_scale(smem, p, rescale);
}

// What the rows of a thread remember before their first key.
PTX_DEVICE MlaRows start_rows(const MlaDecodeParams& params, const MlaWork& work) {
  MlaRows rows;
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    const uint32_t row = work.first_row + fragment_row(ptx::thread_idx() % 128) + 8 * r;
    const uint32_t token = row < work.rows ? row / params.heads : work.q_tokens - 1;
    rows.visible[r] = visible_keys(work.length, token, work.q_tokens, params.causal != 0);
  }
  return rows;
}

// rS, the scores of block `j`, become weights; returns what earlier sums are worth now. The upper of a thread's rows sees no
// more keys than the lower one.
template <class Config>
PTX_DEVICE void softmax(float (&rS)[Config::kScoreRegisters], const MlaDecodeParams& params, const MlaWork& work,
                        uint32_t j, MlaRows& rows, float (&rescale)[2]) {
  const uint32_t first_key = work.key(j);
  if (first_key + Config::kBlockKeys > rows.visible[0]) mask_scores(rS, rows, first_key);
  softmax_block(rS, rows, params.scale_log2, rescale);
}

// rO, rows <- all blocks of a split. The products of a block, whose weights stay in registers, run ahead of the scores of the
// next one, so that its values are given back, and their place is filled again, while those are computed. Beside the products
// the weights are handed to the right warpgroup. The left values of the last block are not given back.
template <class Config>
PTX_DEVICE void attend_left(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work,
                            Ring<Config::kStages>& kv, Ring<1>& p, float (&rO)[Config::kOutRegisters], MlaRows& rows) {
  float rS[Config::kScoreRegisters];
  uint32_t rP[Config::kKeySteps][4], rShared[Config::kKeySteps][4];
  float rescale[2];
  // rP <- the weights of block `j`, whose scores are there.
  const auto weights = [&](uint32_t stage, uint32_t j) {
    release_keys(smem, stage, kRope);
    if (j + 1 == work.blocks) smem.q_pipeline().release({});
    clear_values(smem, stage, 0, work.keys(j));
    softmax<Config>(rS, params, work, j, rows, rescale);
    pack_fragment_bf16(rP, rS);
  };
  // rO += rP . sV. From then on rP is the tensor core's, so that a copy is handed on.
  const auto weigh_left = [&] {
    copy_fragment(rShared, rP);
    weigh(smem, kv.stage, 0,
          [&](uint32_t step, uint64_t desc_v) { ptx::wgmma_rs_k16_bf16_mn(rO, rP[step], desc_v, true); });
  };
  score(rS, smem, kv);
  ptx::wgmma_wait_group<0>(rS);
  weights(kv.stage, 0);
#pragma unroll 1
  for (uint32_t j = 1; j < work.blocks; ++j) {
    Ring<Config::kStages> next = kv;
    next.advance();
    weigh_left();  // rO += rP . sV[j - 1]
    publish(smem, p, rShared, rescale);
    score(rS, smem, next);  // rS <- sQ . sK[j]^T
    ptx::wgmma_wait_group<1>(rO, rP);
    release_keys(smem, kv.stage, kLeftValues);
    ptx::wgmma_wait_group<0>(rS);
    warp_arrive(smem.scored());  // the right products of j - 1 run beside the softmax of j
    weights(next.stage, j);
    scale_rows(rO, rescale);
    kv = next;
  }
  weigh_left();
  publish(smem, p, rShared, rescale);
  warp_arrive(smem.scored());
  ptx::wgmma_wait_group<0>(rO, rP);
}

// m, l or lse of the thread's rows, which the four threads of a row share. A row that sees keys and has no sum of weights has
// scores of -Inf alone: it counts as one without keys, and is reported.
template <class Config>
PTX_DEVICE void store_rows(const MlaDecodeParams& params, const MlaWork& work, MlaPart part, const MlaRows& rows,
                           const float (&l)[2]) {
  const uint32_t thread = ptx::thread_idx() % 128;
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    const uint32_t row = work.first_row + fragment_row(thread) + 8 * r;
    if (thread % 4 != 0 || row >= work.rows) continue;
    if (l[r] == 0.0f && rows.visible[r] > work.first_key) report_fault(params.error_words, FAULT_NONFINITE_SCORE);
    if (part.splits == 1) {
      const uint64_t at =
          lse_element(params.lse_strides, work.first_token + row / params.heads, row % params.heads);
      ptx::stg_f32(params.lse + at, log_sum_exp(rows.m[r], l[r], params.empty_lse));
    } else {
      ptx::stg_v2_u32(params.part_state + (static_cast<uint64_t>(part.index) * params.rows + row) * 2,
                      std::bit_cast<uint32_t>(rows.m[r]), std::bit_cast<uint32_t>(l[r]));
    }
  }
}

// The results of a warpgroup, and its half of the values of the last block, in `stage`, back to the producers.
template <class Config>
PTX_DEVICE void store_half(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work, MlaPart part,
                           uint32_t half, Ring<Config::kStages> kv, float (&rO)[Config::kOutRegisters],
                           const float (&inverse)[2]) {
  const MlaTiles values = half == 0 ? kLeftValues : kRightValues;
  if (part.splits == 1) {
    scale_rows(rO, inverse);
    store_out(params, smem, work, half, kv, rO);
    release_keys(smem, kv.stage, values);
  } else {
    release_keys(smem, kv.stage, values);
    store_part<Config>(params, work, part, half, rO);
  }
}

template <class Config>
PTX_DEVICE void left(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem) {
  Ring<Config::kStages> kv;
  Ring<1> p, q;
#pragma unroll 1
  for (MlaWorkList<Config> list(params); list.has_work(); list.advance()) {
    const MlaWork work = list.work();
    const MlaPart part = part_of(params, work);
    MlaRows rows = start_rows(params, work);
    if (work.blocks == 0) {
      store_zeros(params, work);
      store_rows<Config>(params, work, part, rows, rows.l);
      continue;
    }
    float rO[Config::kOutRegisters] = {};
    smem.q_pipeline().await_full(q);
    q.advance();
    attend_left(params, smem, work, kv, p, rO, rows);
    const float l[2] = {row_sum(rows, 0), row_sum(rows, 1)};
    const float inverse[2] = {inverse_sum(l[0]), inverse_sum(l[1])};
    smem.p_pipeline().await_empty(p);
    publish_scale(smem, p, inverse);
    store_rows<Config>(params, work, part, rows, l);
    store_half(params, smem, work, part, 0, kv, rO, inverse);
    kv.advance();
  }
}

// ---------------------------------------------------------------------------------------------- right warpgroup

// The next factor of the thread's rows, published by the left warpgroup.
template <class Config>
PTX_DEVICE void read_scale(MlaDecodeSmem<Config> smem, Ring<1> p, float (&factor)[2]) {
  const uint32_t row = fragment_row(ptx::thread_idx() % 128);
  smem.p_pipeline().await_full(p);
  factor[0] = ptx::lds_f32(smem.scale(row));
  factor[1] = ptx::lds_f32(smem.scale(row + 8));
}

// rO <- all blocks of a split. The right values of the last block are not given back.
template <class Config>
PTX_DEVICE void attend_right(MlaDecodeSmem<Config> smem, const MlaWork& work, Ring<Config::kStages>& kv, Ring<1>& p,
                             Ring<1>& scored, float (&rO)[Config::kOutRegisters]) {
  const uint64_t desc_p = descriptor_k_major_128b(smem.p());
  float factor[2];
#pragma unroll 1
  for (uint32_t j = 0;; kv.advance()) {
    read_scale(smem, p, factor);
    clear_values(smem, kv.stage, 1, work.keys(j));
    scale_rows(rO, factor);
    // Not before the next scores are done: the left warpgroup would wait for them, and then leave the tensor core idle.
    ptx::mbarrier_wait(smem.scored(), scored.phase);
    scored.advance();
    weigh(smem, kv.stage, 1, [&](uint32_t step, uint64_t desc_v) {  // rO += sP . sV
      ptx::wgmma_k16_bf16_mn(rO, descriptor_advance(desc_p, step * 32), desc_v, true);
    });
    ptx::wgmma_wait_group<0>(rO);
    smem.p_pipeline().release(p);
    p.advance();
    if (++j == work.blocks) return;
    release_keys(smem, kv.stage, kRightValues);
  }
}

template <class Config>
PTX_DEVICE void right(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem) {
  Ring<Config::kStages> kv;
  Ring<1> p, scored;
#pragma unroll 1
  for (MlaWorkList<Config> list(params); list.has_work(); list.advance()) {
    const MlaWork work = list.work();
    if (work.blocks == 0) continue;
    float rO[Config::kOutRegisters] = {};
    attend_right(smem, work, kv, p, scored, rO);
    float inverse[2];
    read_scale(smem, p, inverse);
    smem.p_pipeline().release(p);
    p.advance();
    store_half(params, smem, work, part_of(params, work), 1, kv, rO, inverse);
    kv.advance();
  }
}

// -------------------------------------------------------------------------------------------------------- kernel

// Registers of a thread by role. Of 168 at launch, what the producer gives back the math warpgroups take:
// 3 * 168 = 232 + 232 + 40 = 208 + 168 + 128.
template <class Config>
PTX_DEVICE void run_roles(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem) {
  const uint32_t warp = ptx::warp_uniform(ptx::thread_idx() / 32);
  if constexpr (Config::kCache == Config::Cache::kBf16) {
    if (warp / 4 == 2) {
      ptx::setmaxnreg_dec<40>();
      if (warp % 4 == 0) load_bf16(params, smem);
      ptx::syncwarp();
      return;
    }
    ptx::setmaxnreg_inc<232>();
  } else {
    if (warp / 4 == 2) {
      ptx::setmaxnreg_dec<128>();
      load_fp8(params, smem);
      ptx::syncwarp();
      return;
    }
    if (warp / 4 == 0) ptx::setmaxnreg_inc<208>();
  }
  if (warp / 4 == 0) {
    left(params, smem);
  } else {
    right(params, smem);
  }
}

// The tensor maps, on their way to where TMA looks them up. Without sequences there is none of them, and none of the keys where
// these do not exist, or are codes alone.
template <class Config>
PTX_DEVICE void prefetch_maps(const MlaDecodeParams& params) {
  if (ptx::thread_idx() != 0 || params.batch == 0) return;
  ptx::prefetch_tensormap(params.map_q);
  if (dequantizes<Config>(Config::kRopeTile)) return;
  if (params.pages != 0 && params.page_size != 0) ptx::prefetch_tensormap(params.map_kv);
}

template <class Config>
PTX_DEVICE void mla_decode(const MlaDecodeParams& params) {
  const MlaDecodeSmem<Config> smem{ptx::smem_base()};
  prefetch_maps<Config>(params);
  init_barriers(smem);
  enter_cluster<Config>();
  enter_grid();
  run_roles(params, smem);
  leave_cluster<Config>();
}

}  // namespace mla
