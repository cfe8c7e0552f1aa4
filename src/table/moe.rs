//! The kernels of `cuda/moe`.

use super::{FixedKernel, Kernel, MAX_EXPERTS};

/// Expert map: routes per block and group.
pub const EXPERT_MAP_COUNT: FixedKernel = FixedKernel {
    family: "moe",
    name: "expert_map_count",
    params: "ExpertMapParams",
    threads: 256,
    smem_bytes: (256 + MAX_EXPERTS + 1) * 4,
};
/// Expert map: running sums over the blocks.
pub const EXPERT_MAP_SCAN: FixedKernel = FixedKernel {
    family: "moe",
    name: "expert_map_scan",
    params: "ExpertMapParams",
    threads: 256,
    smem_bytes: 0,
};
/// Expert map: rows of the routes.
pub const EXPERT_MAP_SCATTER: FixedKernel = FixedKernel {
    family: "moe",
    name: "expert_map_scatter",
    params: "ExpertMapParams",
    threads: 256,
    smem_bytes: (256 + MAX_EXPERTS + 8) * 4,
};
/// Rows gathered by expert, BF16 to E4M3 with one scale per 1x128.
pub const GATHER_QUANTIZE: FixedKernel = FixedKernel {
    family: "moe",
    name: "gather_quantize",
    params: "GatherQuantizeParams",
    threads: 256,
    smem_bytes: 0,
};
/// SwiGLU, BF16 to E4M3 with one scale per 1x128.
pub const SWIGLU_QUANTIZE: FixedKernel = FixedKernel {
    family: "moe",
    name: "swiglu_quantize",
    params: "SwigluQuantizeParams",
    threads: 256,
    smem_bytes: 0,
};
/// Weighted sum of the experts' rows of a token.
pub const COMBINE: FixedKernel =
    FixedKernel { family: "moe", name: "combine", params: "CombineParams", threads: 256, smem_bytes: 0 };

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    [EXPERT_MAP_COUNT, EXPERT_MAP_SCAN, EXPERT_MAP_SCATTER, GATHER_QUANTIZE, SWIGLU_QUANTIZE, COMBINE]
        .map(FixedKernel::kernel)
        .into_iter()
}
