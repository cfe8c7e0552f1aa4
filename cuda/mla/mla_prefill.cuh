// Attention of a prefill: queries and keys with a head of their own each, sequences packed one after the other.
//
//   out[t, h] = sum over keys s of  p[t, h, s] * v[s, h]        p = softmax over s of  scale * q[t, h] . k[s, h]
//
//   q BF16 [tokens, heads, nope + 64] · k BF16 [keys, heads, nope], and 64 more columns that heads may share
//   v BF16 [keys, heads, value] · out BF16 [tokens, heads, value] · lse FP32 [tokens, heads] by strides, natural logarithm
//
// Schedule (drawn in README.md): a CTA takes 128 tokens of one head, 64 a warpgroup, and the keys of their sequence, a block at
// a time, which a producer keeps in two rings, K's and V's. A warpgroup scores the next block before it weighs the values
// of this one, so that its softmax runs beside its own products. The order in which a row's keys are added up is fixed, and
// its bits depend on its own sequence alone.
#pragma once
#include <bit>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/fragment_store.cuh"
#include "hopper/cta/pipeline.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/tile/descriptor.h"
#include "hopper/tile/fragment.h"
#include "hopper/tile/ring.h"
#include "mla/lse.h"
#include "mla/mla_prefill_tile.cuh"
#include "mla/mla_softmax.cuh"
#include "mla/mla_state.cuh"
#include "mla/params.h"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

namespace mla {

// ---------------------------------------------------------------------------------------------------------- load

// sQ <- the tile's queries, those of the next sequence where it is short.
template <class Config>
PTX_DEVICE void load_q(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, const MlaPrefillWork& work) {
  ptx::mbarrier_arrive_expect_tx(smem.q_full(), sizeof(MlaPrefillStorage<Config>::q));
#pragma unroll
  for (uint32_t tile = 0; tile < kPrefillKeyTiles<Config>; ++tile) {
    ptx::tma_load_3d(params.map_q, smem.q(tile, 0), smem.q_full(), tile * kPrefillTileColumns, work.head, work.row);
  }
}

// sK <- the keys from row `key` on: what is not rotated, then the position.
template <class Config>
PTX_DEVICE void load_keys(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, uint32_t stage, uint32_t head,
                          uint32_t key) {
  constexpr uint32_t kPosition = kPrefillKeyTiles<Config> - 1;
  const uint32_t full = smem.k_pipeline().full(stage);
  ptx::mbarrier_arrive_expect_tx(full, sizeof(MlaPrefillStorage<Config>::k[0]));
#pragma unroll
  for (uint32_t tile = 0; tile < kPosition; ++tile) {
    ptx::tma_load_3d(params.map_k_nope, smem.k(stage, tile), full, tile * kPrefillTileColumns, head, key);
  }
  ptx::tma_load_3d(params.map_k_pe, smem.k(stage, kPosition), full, 0, head % params.k_pe_heads, key);
}

// sV <- the values from row `key` on.
template <class Config>
PTX_DEVICE void load_values(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, uint32_t stage, uint32_t head,
                            uint32_t key) {
  const uint32_t full = smem.v_pipeline().full(stage);
  ptx::mbarrier_arrive_expect_tx(full, sizeof(MlaPrefillStorage<Config>::v[0]));
#pragma unroll
  for (uint32_t tile = 0; tile < kPrefillValueTiles<Config>; ++tile) {
    ptx::tma_load_3d(params.map_v, smem.v(stage, tile), full, tile * kPrefillTileColumns, head, key);
  }
}

// The producer thread. In the order in which the math warpgroups give back: keys one block ahead of values.
template <class Config>
PTX_DEVICE void load(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, const MlaPrefillWork& work) {
  Ring<Config::kStages> k, v;
  if (work.blocks != 0) load_q(params, smem, work);
#pragma unroll 1
  for (uint32_t j = 0; j < work.blocks + 1; ++j) {
    if (j < work.blocks) {
      smem.k_pipeline().await_empty(k);
      load_keys(params, smem, k.stage, work.head, work.key + j * Config::kBlockKeys);
      k.advance();
    }
    if (j > 0) {
      smem.v_pipeline().await_empty(v);
      load_values(params, smem, v.stage, work.head, work.key + (j - 1) * Config::kBlockKeys);
      v.advance();
    }
  }
}

// ------------------------------------------------------------------------------------------------------ products

// Registers of a thread: of 64 rows x a block of keys, and of 64 rows x the columns of the output.
template <class Config>
constexpr int kPrefillScoreRegisters = Config::kBlockKeys / 2;
template <class Config>
constexpr int kPrefillOutRegisters = Config::kValue / 2;

// Weights of a block, as A of wgmma: 16 keys a step.
template <class Config>
using PrefillWeights = uint32_t[Config::kBlockKeys / 16][4];

// rS <- sQ . sK^T, the columns of a key in ascending order.
template <class Config>
PTX_DEVICE void score(float (&rS)[kPrefillScoreRegisters<Config>], MlaPrefillSmem<Config> smem, uint32_t half,
                      Ring<Config::kStages> k) {
  constexpr uint32_t kStepBytes = 32;  // 16 columns
  smem.k_pipeline().await_full(k);
  ptx::wgmma_fence();
#pragma unroll
  for (uint32_t tile = 0; tile < kPrefillKeyTiles<Config>; ++tile) {
    const uint64_t desc_q = descriptor_k_major_128b(smem.q(tile, half));
    const uint64_t desc_k = descriptor_k_major_128b(smem.k(k.stage, tile));
#pragma unroll
    for (uint32_t byte = 0; byte < 128; byte += kStepBytes) {
      ptx::wgmma_k16_bf16(rS, descriptor_advance(desc_q, byte), descriptor_advance(desc_k, byte), tile + byte != 0);
    }
  }
  ptx::wgmma_commit_group();
}

// rO += rP . sV, which is there.
template <class Config>
PTX_DEVICE void weigh(float (&rO)[kPrefillOutRegisters<Config>], PrefillWeights<Config>& rP, MlaPrefillSmem<Config> smem,
                      uint32_t stage) {
  const uint64_t desc_v = descriptor_mn_major_128b(smem.v(stage, 0), MlaPrefillStorage<Config>::kKeyTileBytes);
  ptx::wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < Config::kBlockKeys / 16; ++step) {
    ptx::wgmma_rs_k16_bf16_mn(rO, rP[step], descriptor_advance(desc_v, step * 16 * 128), true);
  }
  ptx::wgmma_commit_group();
}

// Values past the `keys` that the sequence has in this block become 0: they are the next sequence's, and may be NaN, and
// 0 * NaN is not 0. Both warpgroups read all values, and clear half of the tiles each.
template <class Config>
PTX_DEVICE void clear_values(MlaPrefillSmem<Config> smem, uint32_t stage, uint32_t half, uint32_t keys) {
  constexpr uint32_t kTiles = kPrefillValueTiles<Config> / 2;
  static_assert(2 * kTiles == kPrefillValueTiles<Config>, "as many for each warpgroup");
  if (keys >= Config::kBlockKeys) return;
#pragma unroll 1
  for (uint32_t i = keys * 8 + ptx::thread_idx() % 128; i < Config::kBlockKeys * 8; i += 128) {
#pragma unroll
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      ptx::sts_v4_u32(smem.v(stage, half * kTiles + tile) + i * 16, {});
    }
  }
  ptx::fence_proxy_async_shared();
  both_warpgroups_sync();
}

// ----------------------------------------------------------------------------------------------------- attention

// What the rows of a thread remember before their first key.
PTX_DEVICE MlaRows start_rows(const MlaPrefillParams& params, const MlaPrefillWork& work, uint32_t first_row) {
  MlaRows rows;
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    rows.visible[r] = work.visible(first_row + 8 * r, params.causal != 0);
  }
  return rows;
}

// rO, rows <- all blocks of keys, which are one at least.
template <class Config>
PTX_DEVICE void attend(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, const MlaPrefillWork& work,
                       uint32_t half, float (&rO)[kPrefillOutRegisters<Config>], MlaRows& rows) {
  Ring<Config::kStages> k, v;
  float rS[kPrefillScoreRegisters<Config>], rescale[2];
  PrefillWeights<Config> rP;
  const uint32_t all_see = work.visible(half * kPrefillHalfRows, params.causal != 0);
  // rS, the scores of block `j`, become weights; their keys go back.
  const auto softmax = [&](uint32_t j) {
    smem.k_pipeline().release(k);
    k.advance();
    if ((j + 1) * Config::kBlockKeys > all_see) mask_scores(rS, rows, j * Config::kBlockKeys);
    softmax_block(rS, rows, params.scale_log2, rescale);
  };
  ptx::mbarrier_wait(smem.q_full(), 0);
  score(rS, smem, half, k);
  ptx::wgmma_wait_group<0>(rS);
  softmax(0);
  // The wait for the products that ran beside a softmax begins the next round: in the same one, ptxas would move it over the
  // exponentials.
#pragma unroll 1
  for (uint32_t j = 1;; ++j) {
    ptx::wgmma_wait_group<0>(rO, rP);
    if (j > 1) {
      smem.v_pipeline().release(v);
      v.advance();
    }
    scale_rows(rO, rescale);
    pack_fragment_bf16(rP, rS);
    if (j == work.blocks) break;
    score(rS, smem, half, k);  // rS <- sQ . sK[j]^T
    smem.v_pipeline().await_full(v);
    weigh<Config>(rO, rP, smem, v.stage);  // rO += rP . sV[j - 1], beside the softmax of j
    ptx::wgmma_wait_group<1>(rS);
    softmax(j);
  }
  smem.v_pipeline().await_full(v);
  clear_values(smem, v.stage, half, work.keys - (work.blocks - 1) * Config::kBlockKeys);
  weigh<Config>(rO, rP, smem, v.stage);
  ptx::wgmma_wait_group<0>(rO, rP);
}

// --------------------------------------------------------------------------------------------------------- store

// out <- rO: BF16, by way of the warpgroup's own rows of Q. TMA would not stop at the end of a sequence, behind which lies the
// next one's output.
template <class Config>
PTX_DEVICE void store_out(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, const MlaPrefillWork& work,
                          uint32_t half, const float (&rO)[kPrefillOutRegisters<Config>]) {
  const uint32_t thread = ptx::thread_idx() % 128;
  const auto tile_row = [&](uint32_t tile, uint32_t row) { return smem.q(tile, half) + row * 128; };
  warpgroup_sync(half);  // all its warps have read Q
  store_fragment_bf16<128>(thread, rO, tile_row);
  copy_fragment_rows<128, Config::kValue>(thread, tile_row, [&](uint32_t row) -> uint16_t* {
    const uint32_t of_tile = half * kPrefillHalfRows + row;
    if (of_tile >= work.rows) return nullptr;
    const uint64_t token = work.row + of_tile;
    return params.out + token * params.out_token_stride + work.head * params.out_head_stride;
  });
}

// lse of the thread's rows, which the four threads of a row share. A row that sees keys and has no sum of weights has scores
// of -Inf alone: it counts as one without keys, and is reported.
PTX_DEVICE void store_lse(const MlaPrefillParams& params, const MlaPrefillWork& work, uint32_t first_row,
                          const MlaRows& rows, const float (&l)[2]) {
#pragma unroll
  for (uint32_t r = 0; r < 2; ++r) {
    const uint32_t row = first_row + 8 * r;
    if (ptx::thread_idx() % 4 != 0 || row >= work.rows) continue;
    if (l[r] == 0.0f && rows.visible[r] != 0) report_fault(params.error_words, FAULT_NONFINITE_SCORE);
    const uint64_t at = lse_element(params.lse_strides, work.row + row, work.head);
    ptx::stg_f32(params.lse + at, log_sum_exp(rows.m[r], l[r], params.empty_lse));
  }
}

// A math warpgroup.
template <class Config>
PTX_DEVICE void math(const MlaPrefillParams& params, MlaPrefillSmem<Config> smem, const MlaPrefillWork& work,
                     uint32_t half) {
  const uint32_t first_row = half * kPrefillHalfRows + fragment_row(ptx::thread_idx() % 128);
  MlaRows rows = start_rows(params, work, first_row);
  float rO[kPrefillOutRegisters<Config>] = {};
  if (work.blocks != 0) attend(params, smem, work, half, rO, rows);
  const float l[2] = {row_sum(rows, 0), row_sum(rows, 1)};
  const float inverse[2] = {inverse_sum(l[0]), inverse_sum(l[1])};
  scale_rows(rO, inverse);
  store_lse(params, work, first_row, rows, l);
  store_out(params, smem, work, half, rO);
}

// -------------------------------------------------------------------------------------------------------- kernel

// The tensor maps, on their way to where TMA looks them up. Without tokens, or without keys, there is none of them.
PTX_DEVICE void prefetch_maps(const MlaPrefillParams& params) {
  if (ptx::thread_idx() != 0 || params.tokens == 0 || params.keys == 0) return;
  ptx::prefetch_tensormap(params.map_q);
  ptx::prefetch_tensormap(params.map_k_nope);
  ptx::prefetch_tensormap(params.map_k_pe);
  ptx::prefetch_tensormap(params.map_v);
}

// Registers of a thread by role. Of 168 at launch, what the producer gives back the math warpgroups take:
// 3 * 168 = 232 + 232 + 40.
template <class Config>
PTX_DEVICE void mla_prefill_kernel(const MlaPrefillParams& params) {
  const MlaPrefillSmem<Config> smem{ptx::smem_base()};
  prefetch_maps(params);
  init_barriers(smem);
  ptx::syncthreads();
  enter_grid();
  const uint32_t warp = ptx::warp_uniform(ptx::thread_idx() / 32);
  if (warp / 4 == 2) {
    ptx::setmaxnreg_dec<40>();
    if (warp % 4 == 0) {
      const MlaPrefillWork work = find_work<Config>(params);
      if (ptx::elect_one()) load(params, smem, work);
      ptx::syncwarp();
    } else if (warp % 4 == 1 && ptx::cta_idx() == 0) {
      check_offsets(params);
    }
    return;
  }
  ptx::setmaxnreg_inc<232>();
  const MlaPrefillWork work = find_work<Config>(params);
  if (work.rows != 0) math(params, smem, work, warp / 4);
}

}  // namespace mla
