//! The launches that are traced: small shapes in which several tiles per CTA, ragged edges, more K blocks
//! than stages, clusters, accumulation and an empty sum occur.

use std::mem::offset_of;

use deepseek_kernels::bindings::{
    Fp8GemmParams, GroupedFp8GemmParams, Quantize1x128Params, Quantize128x128Params, SCALE_FP32,
    SCALE_POWER_OF_TWO, TransposeScalesParams,
};
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, GemmInstance};
use deepseek_kernels::table::quant::{QUANTIZE_1X128, QUANTIZE_128X128, TRANSPOSE_SCALES};

pub struct Launch {
    pub kernel: String,
    pub grid: u32,
    pub smem_bytes: u32,
    /// The kernel's parameter struct.
    pub params: Vec<u8>,
}

/// Every kernel's launches.
pub fn all() -> Vec<Launch> {
    let gemms = GEMM_INSTANCES.iter().flat_map(|instance| [full_ring(instance), empty_sum(instance)]);
    let quantisers =
        [SCALE_FP32, SCALE_POWER_OF_TWO].into_iter().flat_map(|f| [quantize_1x128(f), quantize_128x128(f)]);
    let grouped =
        GROUPED_GEMM_INSTANCES.iter().flat_map(|instance| [grouped(instance, 1), grouped(instance, 0)]);
    gemms
        .chain(grouped)
        .chain([two_bands(&GEMM_INSTANCES[0])])
        .chain(quantisers)
        .chain([transpose_scales()])
        .chain(crate::router::launches())
        .chain(crate::moe::launches())
        .chain(crate::mla::launches())
        .chain(crate::kv_append::launches())
        .collect()
}

/// Global memory never exists here: an operand is an address that only it has.
pub const REGION_BYTES: u64 = 1 << 36;
/// More operands than any kernel has.
pub const REGIONS: u64 = 10;

pub fn region(index: u64) -> u64 {
    (1 + index) * REGION_BYTES
}

/// A parameter struct, field by field; what is not set is zero.
pub struct Params(Vec<u8>);

impl Params {
    pub fn of<T>() -> Self {
        Self(vec![0; size_of::<T>()])
    }

    pub fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        self
    }
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

fn quantize_1x128(scale_format: u32) -> Launch {
    let (m, k_blocks) = (5, 7);
    let params = Params::of::<Quantize1x128Params>()
        .u64(offset_of!(Quantize1x128Params, x), region(0))
        .u64(offset_of!(Quantize1x128Params, q), region(1))
        .u64(offset_of!(Quantize1x128Params, sf), region(2))
        .u64(offset_of!(Quantize1x128Params, error_words), region(3))
        .u64(offset_of!(Quantize1x128Params, x_pitch), 1000)
        .u64(offset_of!(Quantize1x128Params, q_pitch), 912)
        .u64(offset_of!(Quantize1x128Params, sf_row_stride), 1)
        .u64(offset_of!(Quantize1x128Params, sf_group_stride), 8)
        .u32(offset_of!(Quantize1x128Params, m), m)
        .u32(offset_of!(Quantize1x128Params, k_blocks), k_blocks)
        .u32(offset_of!(Quantize1x128Params, scale_format), scale_format);
    let grid = (m * k_blocks).div_ceil(QUANTIZE_1X128.threads / 16);
    fixed(QUANTIZE_1X128.name, grid, QUANTIZE_1X128.smem_bytes, params)
}

fn quantize_128x128(scale_format: u32) -> Launch {
    let (n, k_blocks) = (150_u32, 2);
    let params = Params::of::<Quantize128x128Params>()
        .u64(offset_of!(Quantize128x128Params, x), region(0))
        .u64(offset_of!(Quantize128x128Params, q), region(1))
        .u64(offset_of!(Quantize128x128Params, sf), region(2))
        .u64(offset_of!(Quantize128x128Params, error_words), region(3))
        .u64(offset_of!(Quantize128x128Params, x_pitch), 264)
        .u64(offset_of!(Quantize128x128Params, q_pitch), 272)
        .u64(offset_of!(Quantize128x128Params, sf_pitch), 5)
        .u32(offset_of!(Quantize128x128Params, n), n)
        .u32(offset_of!(Quantize128x128Params, k_blocks), k_blocks)
        .u32(offset_of!(Quantize128x128Params, scale_format), scale_format);
    fixed(QUANTIZE_128X128.name, n.div_ceil(128) * k_blocks, QUANTIZE_128X128.smem_bytes, params)
}

fn transpose_scales() -> Launch {
    let (m, k_blocks) = (45_u32, 40_u32);
    let params = Params::of::<TransposeScalesParams>()
        .u64(offset_of!(TransposeScalesParams, sf), region(0))
        .u64(offset_of!(TransposeScalesParams, out), region(1))
        .u64(offset_of!(TransposeScalesParams, sf_pitch), 43)
        .u64(offset_of!(TransposeScalesParams, out_pitch), 48)
        .u32(offset_of!(TransposeScalesParams, m), m)
        .u32(offset_of!(TransposeScalesParams, k_blocks), k_blocks);
    let grid = m.div_ceil(32) * k_blocks.div_ceil(32);
    fixed(TRANSPOSE_SCALES.name, grid, TRANSPOSE_SCALES.smem_bytes, params)
}

pub fn fixed(name: &str, grid: u32, smem_bytes: u32, params: Params) -> Launch {
    Launch { kernel: name.to_owned(), grid, smem_bytes, params: params.0 }
}
