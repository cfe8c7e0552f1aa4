//! The kernels of `cuda/moe`.

use super::gemm::{GemmInstance, OutputType, Schedule};
use super::quant::{BLOCK, BLOCKS};
use super::router::GATE_EXPERTS;
use super::{EXPERTS, FixedKernel, Kernel, MAX_EXPERTS, PIECES, WARP};

/// Routes of a block, which a CTA sorts: a thread each.
pub const EXPERT_MAP_BLOCK: u32 = 256;
/// Expert map: routes per block and group. In shared memory the groups of the block, and a count per group.
pub const EXPERT_MAP_COUNT: FixedKernel =
    FixedKernel::new("moe", "expert_map_count", "ExpertMapParams", EXPERT_MAP_BLOCK, EXPERTS)
        .with_storage("ExpertMapCountStorage", (EXPERT_MAP_BLOCK + MAX_EXPERTS + 1) * 4);

/// Groups (the experts, and all other ids) of a CTA that scans, a warp each.
pub const EXPERT_MAP_SCAN_GROUPS: u32 = 8;
/// Expert map: running sums over the blocks.
pub const EXPERT_MAP_SCAN: FixedKernel =
    FixedKernel::new("moe", "expert_map_scan", "ExpertMapParams", EXPERT_MAP_SCAN_GROUPS * WARP, &[])
        .with_constants(&[("kGroups", EXPERT_MAP_SCAN_GROUPS)]);

/// Expert map: rows of the routes. In shared memory the groups of the block, starts of the experts, sums of the warps.
pub const EXPERT_MAP_SCATTER: FixedKernel =
    FixedKernel::new("moe", "expert_map_scatter", "ExpertMapParams", EXPERT_MAP_BLOCK, EXPERTS).with_storage(
        "ExpertMapScatterStorage",
        (EXPERT_MAP_BLOCK + MAX_EXPERTS + EXPERT_MAP_BLOCK / WARP) * 4,
    );

/// CTAs of the one cluster that gates and maps.
pub const GATE_MAP_CLUSTER: u32 = 8;
const GATE_MAP_THREADS: u32 = 512;
/// Tokens it has room for: a warp each.
pub const GATE_MAP_TOKENS: u32 = GATE_MAP_CLUSTER * GATE_MAP_THREADS / WARP;
/// Rows that it clears in no time: eight stores of each thread.
pub const GATE_MAP_ROWS: u32 = 8 * GATE_MAP_CLUSTER * GATE_MAP_THREADS;
/// Gate and expert map of few tokens. In shared memory the groups of a block, three numbers per expert, two of all other
/// ids, sums of the warps.
pub const GATE_MAP: FixedKernel =
    FixedKernel::new("moe", "gate_map", "GateMapParams", GATE_MAP_THREADS, EXPERTS)
        .with_cluster(GATE_MAP_CLUSTER)
        .with_constants(&[("kExperts", GATE_EXPERTS)])
        .with_storage(
            "GateMapStorage",
            (GATE_MAP_THREADS + 3 * MAX_EXPERTS + 2 + GATE_MAP_THREADS / WARP) * 4,
        );

/// Rows gathered by expert, BF16 to E4M3 with one scale per 1x128.
pub const GATHER_QUANTIZE: FixedKernel =
    FixedKernel::new("moe", "gather_quantize", "GatherQuantizeParams", 256, BLOCKS);

/// SwiGLU, BF16 to E4M3 with one scale per 1x128.
pub const SWIGLU_QUANTIZE: FixedKernel =
    FixedKernel::new("moe", "swiglu_quantize", "SwigluQuantizeParams", 256, BLOCKS);

const fn gate_up(block_m: u32, cluster: u32) -> GemmInstance {
    let (output, schedule) = (OutputType::Bf16, Schedule::GateUp);
    GemmInstance { block_m, block_n: BLOCK, cluster, output, schedule }
}

/// Every compiled GEMM of gate and up with SwiGLU behind it: sums are rounded to BF16, then activated and quantised. All give
/// the same bits.
pub const GATE_UP_INSTANCES: &[GemmInstance] = &[gate_up(64, 1), gate_up(128, 1), gate_up(128, 2)];

/// Weighted sum of the experts' rows of a token.
pub const COMBINE: FixedKernel = FixedKernel::new("moe", "combine", "CombineParams", 256, PIECES);

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    [
        EXPERT_MAP_COUNT,
        EXPERT_MAP_SCAN,
        EXPERT_MAP_SCATTER,
        GATE_MAP,
        GATHER_QUANTIZE,
        SWIGLU_QUANTIZE,
        COMBINE,
    ]
    .map(FixedKernel::kernel)
    .into_iter()
    .chain(GATE_UP_INSTANCES.iter().map(GemmInstance::kernel))
}
