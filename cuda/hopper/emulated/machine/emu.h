// The emulator's entry points, in plain C: what Rust calls. Global memory is the caller's host memory; a launch may
// touch only the regions it is given.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "hopper/tensor_map.h"

#ifdef __cplusplus
extern "C" {
#endif

// A range of host memory that a launch may read, and write if `writable`.
typedef struct EmuRegion {
  const void* base;
  uint64_t bytes;
  uint32_t writable;
  const char* name;  // for reports: "a", "sfb", "d"
  uint32_t host;     // 1: pinned memory of the host, which reads and clears it while kernels run
} EmuRegion;

// One hardware operation of one thread, in program order (see `EmuLaunch.trace`).
typedef struct EmuTraceRecord {
  uint32_t cta, thread;
  const char* op;            // the function's name in ptx/: "mbarrier_init", "tma_load_2d", ...
  uint32_t operand_count;
  const uint64_t* operands;  // in the order that trace.h gives
} EmuTraceRecord;

typedef struct EmuLaunch {
  const char* kernel;
  const void* params;
  uint64_t params_bytes;
  uint32_t grid;        // CTAs, a multiple of the kernel's cluster
  uint32_t smem_bytes;  // dynamic shared memory per CTA
  const EmuRegion* regions;
  uint32_t region_count;
  uint64_t seed;           // chooses the schedule; the same seed replays it
  uint32_t check_state;    // per-byte states of shared memory and the wgmma fence rule
  uint32_t check_races;    // vector clocks
  uint32_t skip_products;  // the tensor core writes zeros: for counts of large launches
  uint32_t count_wavefronts;
  uint32_t registers;      // per thread at launch; 0: as many as ptxas gives for the CTA size
  uint64_t step_limit;     // fiber switches before a livelock is reported; 0: the default
  uint32_t watchdog_ms;    // CPU time without an instruction of ptx/ before the run is ended; 0: the default
  // Not null: operand-trace mode. Nobody is parked, waits succeed, loads and accumulators deliver small made-up integers,
  // and every hardware operation is reported here.
  void (*trace)(void* context, const EmuTraceRecord* record);
  void* trace_context;
  // In that mode: whether the caller says what stands where CTA `cta` reads a count, in global or in its shared memory; if so,
  // that. Null: it never does.
  int32_t (*trace_word)(void* context, uint32_t cta, uint64_t address, uint32_t* word);
} EmuLaunch;

typedef enum EmuStatus {
  EMU_OK = 0,
  EMU_FAULT = 1,       // the kernel broke a rule: `message` says where and which
  EMU_BAD_LAUNCH = 2,  // the launch itself is impossible: unknown kernel, wrong grid, too much shared memory
} EmuStatus;

// What a launch did, over all its CTAs. wavefronts.h says what a wavefront is.
typedef struct EmuCounts {
  uint64_t ctas;
  uint64_t wgmmas[4][32];        // by emu::Operands and columns / 8 - 1
  uint64_t busiest_cta_columns;  // of all wgmmas of the CTA that has the most
  uint64_t operand_bytes;        // that wgmmas read from shared memory
  uint64_t accumulators_read;    // FP32 values that threads took over from the tensor core
  uint64_t tma_loads, tma_load_bytes;         // the bytes inside the tensor, once for all CTAs that get them
  uint64_t tma_multicasts, tma_landed_bytes;  // loads for several CTAs; bytes that reached shared memory
  uint64_t tma_stores, tma_store_bytes;
  uint64_t cluster_copies, cluster_copy_bytes;  // between CTAs
  uint64_t global_loads, global_load_bytes, global_stores, global_store_bytes;  // by threads
  uint64_t shared_loads, shared_stores;             // by threads; a row of ldmatrix or stmatrix is one
  uint64_t shared_wavefronts, shared_conflicts;     // if `count_wavefronts`
  uint64_t exponentials, logarithms;
  uint64_t mbarrier_arrivals, mbarrier_waits, mbarrier_phases;
  uint64_t named_barriers, cluster_barriers, warp_barriers;  // opened
  uint64_t shuffles, reductions, elections;                  // of warps
  uint64_t proxy_fences, wgmma_fences, wgmma_groups;         // by threads
} EmuCounts;

typedef struct EmuReport {
  int32_t status;  // EmuStatus
  char message[2048];
  EmuCounts counts;
} EmuReport;

void emu_launch(const EmuLaunch* launch, EmuReport* report);

// What the library knows of a kernel; false when there is none of that name.
typedef struct EmuKernelInfo {
  uint32_t threads, cluster;
  uint64_t params_bytes;
} EmuKernelInfo;
int32_t emu_kernel_info(const char* kernel, EmuKernelInfo* info);

typedef enum EmuElement { EMU_U8 = 0, EMU_BF16 = 1, EMU_F32 = 2 } EmuElement;
typedef enum EmuSwizzle { EMU_SWIZZLE_NONE = 0, EMU_SWIZZLE_32B = 1, EMU_SWIZZLE_64B = 2, EMU_SWIZZLE_128B = 3 } EmuSwizzle;

// A tiled tensor map, dimensions fastest first; `strides` has rank - 1 entries, in bytes, of dimensions 1, 2, ...
typedef struct EmuTensorMapSpec {
  const void* base;
  uint32_t element;  // EmuElement
  uint32_t swizzle;  // EmuSwizzle
  uint32_t rank;     // 2..5
  uint64_t dims[5];
  uint64_t strides[4];
  uint32_t box[5];
} EmuTensorMapSpec;

// Applies the driver's rules. Returns 0, or 1 with the broken rule in `message`.
int32_t emu_tensor_map_encode(const EmuTensorMapSpec* spec, TensorMap* map, char* message, uint64_t message_bytes);

// One fused dot-product-add of the tensor core (docs/numerics.md): 32 E4M3 pairs, or 16 BF16 pairs.
float emu_fused_dot_e4m3(float c, const uint8_t* a, const uint8_t* b);
float emu_fused_dot_bf16(float c, const uint16_t* a, const uint16_t* b);

#ifdef __cplusplus
}
#endif
