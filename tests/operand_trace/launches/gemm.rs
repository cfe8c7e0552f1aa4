//! The launches of GEMMs.

use std::mem::offset_of;

use deepseek_kernels::bindings::{Fp8GemmParams, GroupedFp8GemmParams};
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, GemmInstance};

use super::{Launch, Params, region};

pub fn launches() -> Vec<Launch> {
    let dense = GEMM_INSTANCES.iter().flat_map(|instance| [full_ring(instance), empty_sum(instance)]);
    let grouped =
        GROUPED_GEMM_INSTANCES.iter().flat_map(|instance| [grouped(instance, 1), grouped(instance, 0)]);
    dense.chain(grouped).chain([two_bands(&GEMM_INSTANCES[0])]).collect()
}

fn gemm(instance: &GemmInstance, clusters: u32, m: u32, n: u32, k_blocks: u32, accumulate: bool) -> Launch {
    let params = Params::of::<Fp8GemmParams>()
        .u64(offset_of!(Fp8GemmParams, sfb), region(0))
        .u64(offset_of!(Fp8GemmParams, d), region(1))
        .u64(offset_of!(Fp8GemmParams, d_pitch), u64::from(n) + 24)
        .u32(offset_of!(Fp8GemmParams, sfb_pitch), k_blocks + 3)
        .u32(offset_of!(Fp8GemmParams, m), m)
        .u32(offset_of!(Fp8GemmParams, n), n)
        .u32(offset_of!(Fp8GemmParams, k_blocks), k_blocks)
        .u32(offset_of!(Fp8GemmParams, accumulate), accumulate.into());
    let (grid, smem_bytes) = (clusters * instance.cluster, instance.smem_bytes());
    Launch { kernel: instance.name(), grid, smem_bytes, params: params.0 }
}

/// Two clusters share four tiles, ragged at both edges; the ring goes round more than once.
fn full_ring(instance: &GemmInstance) -> Launch {
    let m = 2 * instance.block_m * instance.cluster - 9;
    let n = instance.block_n + 8;
    gemm(instance, 2, m, n, instance.stages() + 1, true)
}

/// The segments come from made-up memory, and so do the tiles: few, of any expert.
fn grouped(instance: &GemmInstance, ragged: u32) -> Launch {
    let (m, n, k_blocks) = (400, instance.block_n + 8, instance.stages() + 1);
    let params = Params::of::<GroupedFp8GemmParams>()
        .u64(offset_of!(GroupedFp8GemmParams, gemm.sfb), region(0))
        .u64(offset_of!(GroupedFp8GemmParams, gemm.d), region(1))
        .u64(offset_of!(GroupedFp8GemmParams, gemm.d_pitch), u64::from(n) + 24)
        .u64(offset_of!(GroupedFp8GemmParams, gemm.sfb_expert_stride), u64::from(2 * k_blocks + 9))
        .u32(offset_of!(GroupedFp8GemmParams, gemm.sfb_pitch), k_blocks + 3)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.m), m)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.n), n)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.k_blocks), k_blocks)
        .u64(offset_of!(GroupedFp8GemmParams, rows), region(2))
        .u64(offset_of!(GroupedFp8GemmParams, error_words), region(3))
        .u32(offset_of!(GroupedFp8GemmParams, experts), 37)
        .u32(offset_of!(GroupedFp8GemmParams, ragged), ragged)
        .u32(offset_of!(GroupedFp8GemmParams, max_rows), 70);
    Launch { kernel: instance.name(), grid: 60, smem_bytes: instance.smem_bytes(), params: params.0 }
}

/// More rows of tiles than a band of the tile order is high.
fn two_bands(instance: &GemmInstance) -> Launch {
    gemm(instance, 2, 17 * instance.block_m * instance.cluster, 2 * instance.block_n, 1, false)
}

/// No K block at all, and more CTAs than tiles.
fn empty_sum(instance: &GemmInstance) -> Launch {
    gemm(instance, 2, 5, instance.block_n, 0, false)
}
