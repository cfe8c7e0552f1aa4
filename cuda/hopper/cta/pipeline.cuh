// A ring of buffers in shared memory, filled and read side by side: the mbarriers of a stage, and who waits for what.
//
//   filling    await_empty(ring) · write, or load what counts on full(stage) · ring.advance()
//   reading    await_full(ring) · read · release(ring) · ring.advance()
#pragma once
#include <cstddef>
#include <cstdint>

#include "hopper/cta/cta_sync.cuh"
#include "hopper/tile/ring.h"
#include "ptx/mbarrier.h"
#include "ptx/regs.h"
#include "ptx/smem.h"
#include "ptx/target.h"
#include "ptx/tma.h"

// `bar` expects `arrivals` a phase; reports call it `name`[`index`].
PTX_DEVICE void init_mbarrier(uint32_t bar, uint32_t arrivals, const char* name, uint32_t index) {
  ptx::mbarrier_init(bar, arrivals);
  ptx::name_shared(bar, name, index);
}

template <int Stages>
struct PipelineStorage {
  uint64_t full[Stages];   // mbarrier: what was to come is there
  uint64_t empty[Stages];  // mbarrier: every warp that reads the stage has read it
};

// Its shared addresses. In a cluster every CTA fills a part of each stage of both.
template <int Stages, int Cluster = 1>
struct Pipeline {
  using Storage = PipelineStorage<Stages>;
  uint32_t base;

  PTX_DEVICE uint32_t full(uint32_t stage) const { return base + offsetof(Storage, full) + stage * 8; }
  PTX_DEVICE uint32_t empty(uint32_t stage) const { return base + offsetof(Storage, empty) + stage * 8; }

  // By one thread. A phase takes `fills` arrivals on `full` and `releases` on `empty`: the warps of every CTA release.
  PTX_DEVICE void init(uint32_t fills, uint32_t releases, const char* full_name = "full",
                       const char* empty_name = "empty") const {
#pragma unroll 1
    for (int stage = 0; stage < Stages; ++stage) {
      init_mbarrier(full(stage), fills, full_name, stage);
      init_mbarrier(empty(stage), releases, empty_name, stage);
    }
  }

  // Until the stage may be filled. A fresh barrier lets the first lap through.
  PTX_DEVICE void await_empty(Ring<Stages> ring) const { await_release<Cluster>(empty(ring.stage), ring.phase ^ 1); }

  // Until the stage is filled.
  PTX_DEVICE void await_full(Ring<Stages> ring) const { ptx::mbarrier_wait(full(ring.stage), ring.phase); }

  // This warp has read the stage.
  PTX_DEVICE void release(Ring<Stages> ring) const { warp_release<Cluster>(empty(ring.stage)); }
};

// sBox <- a box of the map, in every CTA of the cluster: which box, one of them chooses. `full` counts its bytes in each.
template <int Cluster>
PTX_DEVICE void load_for_all(const TensorMap& map, uint32_t sBox, uint32_t full, uint32_t x, uint32_t y, uint32_t z) {
  if constexpr (Cluster == 1) {
    ptx::tma_load_3d(map, sBox, full, x, y, z);
  } else {
    ptx::tma_load_3d_multicast(map, sBox, full, x, y, z, 0b11);
  }
}

// sBoxes <- `Rows` rows, `Bytes` in all, which every CTA of the cluster wants, as so many boxes of the map: the first from
// (x, y, z) on, each next one behind its rows, or `Layers` apart at the same rows. A pair of CTAs fetches one each and
// multicasts it to both. `full` counts all bytes.
template <int Cluster, int Rows, int Bytes, int Boxes = Cluster, int Layers = 0>
PTX_DEVICE void load_together(const TensorMap& map, uint32_t sBoxes, uint32_t full, uint32_t x, uint32_t y, uint32_t z) {
  static_assert(Cluster == 1 || (Cluster == 2 && Boxes == 2), "pairs of CTAs");
  constexpr uint32_t kRows = Layers == 0 ? Rows / Boxes : 0;  // from box to box
  const auto load = [&](uint32_t box) {
    load_for_all<Cluster>(map, sBoxes + box * (Bytes / Boxes), full, x, y + box * kRows, z + box * Layers);
  };
  if constexpr (Cluster == 1) {
#pragma unroll
    for (uint32_t box = 0; box < Boxes; ++box) load(box);
  } else {
    load(ptx::cluster_rank());
  }
}
