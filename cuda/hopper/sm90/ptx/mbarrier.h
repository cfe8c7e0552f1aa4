// mbarrier objects: 8 bytes of shared memory that count arrivals and bytes. A phase completes when both counts reach
// zero; waiters name the parity of the phase they wait for. PTX ISA, "mbarrier".
#pragma once
#include "ptx/target.h"

namespace ptx {

// `bar` expects `count` arrivals per phase. "mbarrier.init.shared::cta.b64".
PTX_DEVICE void mbarrier_init(uint32_t bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

// Makes this thread's mbarrier inits visible to the async proxy and to the cluster. "fence.mbarrier_init".
PTX_DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// One arrival, release at cta scope. "mbarrier.arrive.shared::cta.b64".
PTX_DEVICE void mbarrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// Expects `bytes` more bytes in this phase, then arrives. "mbarrier.arrive.expect_tx".
PTX_DEVICE void mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

// One arrival on the barrier at the same offset in CTA `rank` of the cluster: "I have read it". "mapa",
// "mbarrier.arrive.shared::cluster".
//
// Across CTAs it orders shared memory of the cluster only: what this thread (or its warp, before a syncwarp) has read
// there may be overwritten, by a CTA that waits with mbarrier_wait_cluster. It hands over nothing in global memory.
// `.release.cluster` would, and costs a fence of the whole GPU per arrival and all of L1 per wait (SASS: MEMBAR.ALL.GPU,
// CCTL.IVALL). PTX's default `.release.cta` is enough for shared memory because loads and arrivals of a warp reach it
// in order; PTX's text does not promise that across CTAs, CUTLASS' ClusterBarrier rests on it too.
PTX_DEVICE void mbarrier_arrive_cluster(uint32_t bar, uint32_t rank) {
  asm volatile(
      "{ .reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(bar),
      "r"(rank)
      : "memory");
}

// Waits until the phase with this parity has completed, acquire at cta scope: arrivals come from this CTA only. A fresh
// barrier lets parity 1 through. "mbarrier.try_wait.parity".
PTX_DEVICE void mbarrier_wait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again; }" ::"r"(bar),
      "r"(parity)
      : "memory");
}
// The same where arrivals may come from another CTA, which order no more than mbarrier_arrive_cluster says. Hopper has
// one instruction for both; the emulator tells them apart.
PTX_DEVICE void mbarrier_wait_cluster(uint32_t bar, uint32_t parity) { mbarrier_wait(bar, parity); }

}  // namespace ptx
