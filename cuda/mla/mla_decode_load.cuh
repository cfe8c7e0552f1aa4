// The producers of MLA decode: Q by TMA, keys by TMA (BF16 cache) or dequantised on the way (FP8 cache).
#pragma once
#include <bit>
#include <cstdint>

#include "faults.h"
#include "hopper/cta/cta_sync.cuh"
#include "hopper/cta/pipeline.cuh"
#include "hopper/cta/report_fault.cuh"
#include "hopper/tile/ring.h"
#include "hopper/tile/swizzle.h"
#include "indices.cuh"
#include "mla/kv_row.h"
#include "mla/mla_decode_tile.cuh"
#include "mla/params.h"
#include "ptx/convert.h"
#include "ptx/gmem.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/sync.h"
#include "ptx/target.h"
#include "ptx/tma.h"

namespace mla {

// Keys of a block that each CTA of a cluster fetches, for both.
template <class Config>
constexpr uint32_t kOwnKeys = Config::kBlockKeys / Config::kCluster;

// Where a key lies in the cache, and those that follow it within the page.
struct MlaPlace {
  uint32_t page, key;  // of the page
};

// Of what a lane fetches of a block: one key or two, or boxes of keys, from each of these on.
template <class Config>
struct MlaPlaces {
  static constexpr uint32_t kCount = kOwnKeys<Config> / 32;
  MlaPlace at[kCount];
};

// The page table's entry of a sequence's `key`. A contiguous cache has none, nor has a key past the end.
PTX_DEVICE IndexWords page_words(const MlaDecodeParams& params, const MlaWork& work, uint32_t key) {
  if (params.page_table.words == nullptr || key >= work.length) return {};
  return load_index_words(params.page_table, work.sequence, key / params.page_size);
}

// Where a sequence's `key` lies, whose entry `words` are: in a contiguous cache sequence b is page b. Page ids come from the
// device's memory and may be anything: one that does not exist reads as zeros, and is reported. Keys past the end lie nowhere.
PTX_DEVICE MlaPlace place_of(const MlaDecodeParams& params, const MlaWork& work, uint32_t key, IndexWords words) {
  if (key >= work.length) return {params.pages, 0};
  if (params.page_table.words == nullptr) return {work.sequence, key};
  const uint32_t page = static_cast<uint32_t>(index_of(params.page_table, words));
  if (page >= params.pages) report_fault(params.error_words, FAULT_PAGE_ID);
  return {page, key % params.page_size};
}

// sQ <- the rows of `work`, and what lies behind the last of them: the next sequence's, whose results nobody stores. One thread.
template <class Config>
PTX_DEVICE void load_q(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, const MlaWork& work, Ring<1>& q) {
  const uint32_t full = smem.q_pipeline().full(0);
  smem.q_pipeline().await_empty(q);
  ptx::mbarrier_arrive_expect_tx(full, Config::kTiles * Config::kTileBytes);
  const uint32_t row = work.first_token * params.heads + work.first_row;
#pragma unroll 1
  for (uint32_t tile = 0; tile < Config::kTiles; ++tile) {
    ptx::tma_load_2d(params.map_q, smem.q(tile), full, tile * Config::kTileColumns, row);
  }
  q.advance();
}

// sKV tile, from `key` of the block on <- a box of keys that lie in one page, 128 bytes of each, from `column` of the cache on.
// The CTAs of a cluster load different boxes, for both.
template <class Config>
PTX_DEVICE void load_box(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, uint32_t stage, uint32_t tile,
                         uint32_t column, uint32_t key, MlaPlace at) {
  load_for_all<Config::kCluster>(params.map_kv, smem.kv(stage, tile) + key * 128, smem.kv_full(stage, tile), column, at.key,
                                 at.page);
}

// The first of the keys of a block that this CTA fetches.
template <class Config>
PTX_DEVICE uint32_t first_own_key() {
  return Config::kCluster == 1 ? 0 : ptx::cluster_rank() * kOwnKeys<Config>;
}

// Waits until nobody reads these tiles any more, in a cluster neither here nor in the peer.
template <class Config>
PTX_DEVICE void await_free(MlaDecodeSmem<Config> smem, Ring<Config::kStages> kv, MlaTiles tiles) {
  await_release<Config::kCluster>(smem.kv_empty(kv.stage, tiles), kv.phase ^ 1);
}

// ----------------------------------------------------------------------------------------------------- BF16 cache

// The key of a block with which box i of this lane begins: pages decide how many keys a box has. Of a lane without that box, it
// is no key of this CTA.
template <class Config>
PTX_DEVICE uint32_t box_key(const MlaDecodeParams& params, uint32_t i) {
  return first_own_key<Config>() + (i * 32 + ptx::thread_idx() % 32) * params.box_keys;
}

template <class Config>
PTX_DEVICE bool has_box(const MlaDecodeParams& params, uint32_t i) {
  return box_key<Config>(params, i) < first_own_key<Config>() + kOwnKeys<Config>;
}

// Of block `j`.
template <class Config>
PTX_DEVICE MlaPlaces<Config> box_places(const MlaDecodeParams& params, const MlaWork& work, uint32_t j) {
  MlaPlaces<Config> places;
#pragma unroll
  for (uint32_t i = 0; i < places.kCount; ++i) {
    const uint32_t key = work.key(j) + box_key<Config>(params, i);
    if (has_box<Config>(params, i)) places.at[i] = place_of(params, work, key, page_words(params, work, key));
  }
  return places;
}

// A tile of a block, by all lanes that have boxes of it.
template <class Config>
PTX_DEVICE void load_tile(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, uint32_t stage, uint32_t tile,
                          const MlaPlaces<Config>& places) {
  if (ptx::thread_idx() % 32 == 0) ptx::mbarrier_arrive_expect_tx(smem.kv_full(stage, tile), Config::kTileBytes);
#pragma unroll
  for (uint32_t i = 0; i < places.kCount; ++i) {
    if (!has_box<Config>(params, i)) continue;
    load_box(params, smem, stage, tile, tile * Config::kTileColumns, box_key<Config>(params, i), places.at[i]);
  }
}

// Tiles in the order in which they become free, which is the order in which the scores need them.
template <class Config>
PTX_DEVICE void load_block(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, Ring<Config::kStages> kv,
                           const MlaPlaces<Config>& places) {
  await_free(smem, kv, kRope);
  load_tile(params, smem, kv.stage, Config::kRopeTile, places);
  await_free(smem, kv, kLeftValues);
#pragma unroll 1
  for (uint32_t tile = 0; tile < Config::kHalfTiles; ++tile) load_tile(params, smem, kv.stage, tile, places);
  await_free(smem, kv, kRightValues);
#pragma unroll 1
  for (uint32_t tile = Config::kHalfTiles; tile < Config::kRopeTile; ++tile) {
    load_tile(params, smem, kv.stage, tile, places);
  }
}

// The producer warp of a BF16 cache; lanes without a box have nothing to do. The first block and Q do not wait for the previous
// output, which lies where the second block goes.
template <class Config>
PTX_DEVICE void load_bf16(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem) {
  if (!has_box<Config>(params, 0)) return;
  Ring<Config::kStages> kv;
  Ring<1> q;
#pragma unroll 1
  for (MlaWorkList<Config> list(params); list.has_work(); list.advance()) {
    const MlaWork work = list.work();
#pragma unroll 1
    for (uint32_t j = 0; j < work.blocks; ++j, kv.advance()) {
      load_block(params, smem, kv, box_places<Config>(params, work, j));
      if (j == 0 && ptx::thread_idx() % 32 == 0) load_q(params, smem, work, q);
    }
  }
}

// ------------------------------------------------------------------------------------------------------ FP8 cache

// A thread's part of some tiles: 16 codes of each.
template <class Config, uint32_t Tiles>
struct MlaCodes {
  ptx::U32x4 codes[Tiles][MlaPlaces<Config>::kCount];
};

// Where a thread's keys lie: eight keys per warp and access, four lanes for the 64 codes of a tile, so that neither
// loads nor swizzled stores conflict.
template <class Config>
struct MlaFp8Rows {
  const uint8_t* row[MlaPlaces<Config>::kCount];
  bool exists[MlaPlaces<Config>::kCount];         // otherwise its codes and scales are zeros
  ptx::U32x4 scales[MlaPlaces<Config>::kCount];   // FP32 [4], all of them the same if there is one for the whole cache
};

// The first key of a warp. Its keys follow one another, and so do those of a CTA.
template <class Config>
PTX_DEVICE uint32_t fp8_first_key() {
  return first_own_key<Config>() + ptx::thread_idx() % 128 / 32 * MlaPlaces<Config>::kCount * 8;
}

// The i-th key of a thread.
template <class Config>
PTX_DEVICE uint32_t fp8_key(uint32_t i) {
  return fp8_first_key<Config>() + i * 8 + ptx::thread_idx() % 32 / 4;
}

// What the table says of a thread's keys, not looked at yet.
template <class Config>
struct MlaPageWords {
  IndexWords of[MlaPlaces<Config>::kCount];
};

// Of block `j`.
template <class Config>
PTX_DEVICE MlaPageWords<Config> fp8_words(const MlaDecodeParams& params, const MlaWork& work, uint32_t j) {
  MlaPageWords<Config> words;
#pragma unroll
  for (uint32_t i = 0; i < MlaPlaces<Config>::kCount; ++i) {
    words.of[i] = page_words(params, work, work.key(j) + fp8_key<Config>(i));
  }
  return words;
}

template <class Config>
PTX_DEVICE MlaPlaces<Config> fp8_places(const MlaDecodeParams& params, const MlaWork& work, uint32_t j,
                                        const MlaPageWords<Config>& words) {
  MlaPlaces<Config> places;
#pragma unroll
  for (uint32_t i = 0; i < MlaPlaces<Config>::kCount; ++i) {
    places.at[i] = place_of(params, work, work.key(j) + fp8_key<Config>(i), words.of[i]);
  }
  return places;
}

template <class Config>
PTX_DEVICE MlaFp8Rows<Config> fp8_rows(const MlaDecodeParams& params, const MlaPlaces<Config>& places, bool wanted,
                                       uint32_t cache_scale) {
  MlaFp8Rows<Config> rows;
#pragma unroll
  for (uint32_t i = 0; i < MlaPlaces<Config>::kCount; ++i) {
    const auto [page, key] = places.at[i];
    rows.exists[i] = wanted && page < params.pages;
    rows.row[i] = params.kv + page * params.page_stride + key * params.kv_pitch;
    if constexpr (Config::kCache == Config::Cache::kFp8) {
      rows.scales[i] = ptx::ldg_v4_u32_if(rows.exists[i], rows.row[i] + kKvFp8Scales);
    } else {
      const uint32_t scale = rows.exists[i] ? cache_scale : 0;
      rows.scales[i] = {scale, scale, scale, scale};
    }
  }
  return rows;
}

// The same rows for their positions, which are zeros if keys have none, whatever the scale is.
template <class Config>
PTX_DEVICE MlaFp8Rows<Config> position_rows(const MlaDecodeParams& params, MlaFp8Rows<Config> rows) {
#pragma unroll
  for (uint32_t i = 0; i < MlaPlaces<Config>::kCount; ++i) {
    rows.exists[i] = rows.exists[i] && params.rope != 0;
    if (params.rope == 0) rows.scales[i] = {};
  }
  return rows;
}

template <class Config, uint32_t Tiles>
PTX_DEVICE MlaCodes<Config, Tiles> load_codes(const MlaFp8Rows<Config>& rows, uint32_t first_tile) {
  MlaCodes<Config, Tiles> part;
  const uint32_t lane_codes = ptx::thread_idx() % 4 * 16;
#pragma unroll
  for (uint32_t tile = 0; tile < Tiles; ++tile) {
#pragma unroll
    for (uint32_t i = 0; i < MlaPlaces<Config>::kCount; ++i) {
      part.codes[tile][i] = ptx::ldg_v4_u32_if(
          rows.exists[i], rows.row[i] + (first_tile + tile) * Config::kTileColumns + lane_codes);
    }
  }
  return part;
}

template <class Config>
PTX_DEVICE MlaCodes<Config, 1> load_position(const MlaDecodeParams& params, const MlaFp8Rows<Config>& rows) {
  return load_codes<Config, 1>(position_rows(params, rows), Config::kRopeTile);
}

// Four codes to BF16: fp32(code) * scale, rounded to FP32, then to BF16.
PTX_DEVICE void dequantize(uint32_t (&out)[2], uint32_t codes, float scale) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const ptx::F32x2 x = ptx::e4m3x2_f32(codes >> (16 * i));
    out[i] = ptx::cvt_bf16x2(x.hi * scale, x.lo * scale);
  }
}

PTX_DEVICE ptx::U32x4 dequantize_eight(uint32_t low, uint32_t high, float scale) {
  uint32_t a[2], b[2];
  dequantize(a, low, scale);
  dequantize(b, high, scale);
  return {a[0], a[1], b[0], b[1]};
}

// Tells the scores that this warp has stored its keys of a tile. In a cluster it hands them to the peer too, and
// announces as many bytes as the peer's warp sends.
template <class Config>
PTX_DEVICE void publish_keys(MlaDecodeSmem<Config> smem, uint32_t stage, uint32_t tile) {
  const uint32_t full = smem.kv_full(stage, tile);
  if constexpr (Config::kCluster == 1) {
    warp_arrive(full);
  } else {
    constexpr uint32_t kBytes = MlaPlaces<Config>::kCount * 8 * 128;  // whole swizzle atoms: the same bytes in both CTAs
    ptx::syncwarp();
    if (!ptx::elect_one()) return;
    const uint32_t sKeys = smem.kv(stage, tile) + fp8_first_key<Config>() * 128;
    ptx::bulk_copy_to_cta(sKeys, full, sKeys, kBytes, ptx::cluster_rank() ^ 1);
    ptx::mbarrier_arrive_expect_tx(full, kBytes);
  }
}

// Codes -> tiles, one after the other.
template <class Config, uint32_t Tiles>
PTX_DEVICE void store_codes(MlaDecodeSmem<Config> smem, uint32_t stage, uint32_t first_tile,
                            const MlaCodes<Config, Tiles>& part, const MlaFp8Rows<Config>& rows) {
  const uint32_t lane_bytes = ptx::thread_idx() % 4 * 32;
#pragma unroll
  for (uint32_t tile = 0; tile < Tiles; ++tile) {
    const uint32_t group = (first_tile + tile) * Config::kTileColumns / kKvScaleBlock;
#pragma unroll
    for (uint32_t i = 0; i < MlaPlaces<Config>::kCount; ++i) {
      const ptx::U32x4 s = rows.scales[i];
      const float scale = std::bit_cast<float>(group == 0 ? s.x : group == 1 ? s.y : group == 2 ? s.z : s.w);
      const ptx::U32x4 c = part.codes[tile][i];
      const uint32_t sRow = smem.kv(stage, first_tile + tile) + fp8_key<Config>(i) * 128 + lane_bytes;
      ptx::sts_v4_u32(swizzle<128>(sRow), dequantize_eight(c.x, c.y, scale));
      ptx::sts_v4_u32(swizzle<128>(sRow + 16), dequantize_eight(c.z, c.w, scale));
    }
    ptx::fence_proxy_async_shared();
    publish_keys(smem, stage, first_tile + tile);
  }
}

// The position of a block, which is BF16 already: the first lane of every key with which a box begins fetches it.
template <class Config>
PTX_DEVICE void load_rope(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem, Ring<Config::kStages> kv,
                          const MlaPlaces<Config>& places) {
  const auto begins_box = [&](uint32_t key) { return (key & (params.box_keys - 1)) == 0; };
  if (ptx::thread_idx() % 4 != 0 || !begins_box(fp8_key<Config>(0))) return;
  await_free(smem, kv, kRope);
  if (ptx::thread_idx() % 128 == 0) {
    ptx::mbarrier_arrive_expect_tx(smem.kv_full(kv.stage, Config::kRopeTile), Config::kTileBytes);
  }
#pragma unroll
  for (uint32_t i = 0; i < places.kCount; ++i) {
    const uint32_t key = fp8_key<Config>(i);
    if (begins_box(key)) load_box(params, smem, kv.stage, Config::kRopeTile, kKvFp8Rope, key, places.at[i]);
  }
}

// The producer warpgroup of an FP8 cache: codes through registers, a position that is none by TMA. What a block needs is asked for
// early, each step of the chain ahead of the next: its pages two blocks before, its scales one, its codes half of one.
template <class Config>
PTX_DEVICE void load_fp8(const MlaDecodeParams& params, MlaDecodeSmem<Config> smem) {
  constexpr bool kCodes = dequantizes<Config>(Config::kRopeTile);  // of the position
  const uint32_t cache_scale = kCodes ? ptx::ldg_u32(params.kv_scale) : 0;
  Ring<Config::kStages> kv;
  Ring<1> q;
#pragma unroll 1
  for (MlaWorkList<Config> list(params); list.has_work(); list.advance()) {
    const MlaWork work = list.work();
    if (work.blocks == 0) continue;
    MlaPlaces<Config> places = fp8_places(params, work, 0, fp8_words<Config>(params, work, 0));
    MlaPageWords<Config> next_words = {};
    if (work.blocks > 1) next_words = fp8_words<Config>(params, work, 1);
    MlaFp8Rows<Config> rows = fp8_rows(params, places, true, cache_scale);
    MlaCodes<Config, 1> position = {};
    if constexpr (kCodes) position = load_position(params, rows);
    auto left = load_codes<Config, Config::kHalfTiles>(rows, 0);
#pragma unroll 1
    for (uint32_t j = 0; j < work.blocks; ++j, kv.advance()) {
      if constexpr (kCodes) {
        await_free(smem, kv, kRope);
        store_codes(smem, kv.stage, Config::kRopeTile, position, position_rows(params, rows));
      } else {
        load_rope(params, smem, kv, places);
      }
      if (j == 0 && ptx::thread_idx() % 128 == 0) load_q(params, smem, work, q);
      ptx::syncwarp();
      const auto right = load_codes<Config, Config::kHalfTiles>(rows, Config::kHalfTiles);
      const bool more = j + 1 < work.blocks;
      if (more) places = fp8_places(params, work, j + 1, next_words);
      const MlaFp8Rows<Config> next = fp8_rows(params, places, more, cache_scale);
      if (j + 2 < work.blocks) next_words = fp8_words<Config>(params, work, j + 2);

      await_free(smem, kv, kLeftValues);
      store_codes(smem, kv.stage, 0, left, rows);
      if constexpr (kCodes) position = load_position(params, next);
      left = load_codes<Config, Config::kHalfTiles>(next, 0);
      await_free(smem, kv, kRightValues);
      store_codes(smem, kv.stage, Config::kHalfTiles, right, rows);
      rows = next;
    }
  }
}

}  // namespace mla
