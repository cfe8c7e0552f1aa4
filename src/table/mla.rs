//! The kernels of `cuda/mla`.

use super::{Entry, FixedKernel, Kernel};

/// Numbers of a latent vector: the values of MLA, and the first part of its keys.
pub const MLA_LATENT: u32 = 512;
/// Numbers of a key that carry the position.
pub const MLA_ROPE: u32 = 64;
/// Keys that MLA decode takes at a time: splits and pages are multiples of it.
pub const MLA_BLOCK_KEYS: u32 = 64;

/// One compiled configuration of `cuda/mla/mla_decode.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MlaInstance {
    /// The cache holds 656 bytes a key, to be dequantised on the way; otherwise 576 BF16.
    pub fp8_cache: bool,
    /// CTAs that share the keys, each bringing in half of them: 1 or 2, neighbours along the rows.
    pub cluster: u32,
}

impl MlaInstance {
    /// Name of its parameter struct.
    pub(crate) const PARAMS: &'static str = "MlaDecodeParams";

    /// Threads per CTA: two warpgroups that multiply and a producer.
    pub const fn threads(&self) -> u32 {
        3 * 128
    }

    /// Dynamic shared memory per CTA: Q, two blocks of keys, the weights, factors and barriers.
    pub const fn smem_bytes(&self) -> u32 {
        let block = MLA_BLOCK_KEYS * (MLA_LATENT + MLA_ROPE) * 2;
        let weights = 64 * MLA_BLOCK_KEYS * 2;
        let barriers = 8 * (2 * (9 + 3) + 4);
        (3 * block + weights + 64 * 4 + barriers).next_multiple_of(1024)
    }

    /// Name of the kernel, as in `mla_decode_bf16_c2`.
    pub fn name(&self) -> String {
        let cache = if self.fp8_cache { "fp8" } else { "bf16" };
        format!("mla_decode_{cache}_c{}", self.cluster)
    }

    fn kernel(&self) -> Kernel {
        let (cluster, smem_bytes) = (self.cluster, self.smem_bytes());
        let cache = if self.fp8_cache { "Fp8" } else { "Bf16" };
        let code = format!(
            "namespace {{\n\
             struct Config : mla::MlaDecodeConfig {{\n\
             \x20 static constexpr Cache kCache = Cache::k{cache};\n\
             \x20 static constexpr int kCluster = {cluster};\n\
             }};\n\
             }}  // namespace\n\
             static_assert(sizeof(mla::MlaDecodeStorage<Config>) == {smem_bytes});\n"
        );
        let entry = Entry {
            name: &self.name(),
            function: "mla::mla_decode<Config>",
            params: Self::PARAMS,
            threads: self.threads(),
            cluster,
        };
        entry.kernel("mla", "mla/mla_decode.cuh", &code, smem_bytes)
    }
}

/// Every compiled MLA decode; all give the same bits.
pub const MLA_INSTANCES: &[MlaInstance] = &[
    MlaInstance { fp8_cache: false, cluster: 1 },
    MlaInstance { fp8_cache: false, cluster: 2 },
    MlaInstance { fp8_cache: true, cluster: 1 },
    MlaInstance { fp8_cache: true, cluster: 2 },
];

/// MLA decode: splits of the sequences.
pub const MLA_SCHEDULE: FixedKernel = FixedKernel {
    family: "mla",
    name: "mla_schedule",
    params: "MlaScheduleParams",
    threads: 128,
    smem_bytes: 0,
};
/// MLA decode: the splits of a row, added up.
pub const MLA_COMBINE: FixedKernel = FixedKernel {
    family: "mla",
    name: "mla_combine",
    params: "MlaCombineParams",
    threads: 256,
    smem_bytes: 0,
};
/// MLA: queries into the latent space of the cache.
pub const MLA_ABSORB_QUERY: FixedKernel = FixedKernel {
    family: "mla",
    name: "mla_absorb_query",
    params: "HeadGemmParams",
    threads: 160,
    smem_bytes: 2 * (8 + 32) * 1024 + 32 * 1024 + 1024,
};
/// MLA: attention over latents into the space of the values.
pub const MLA_ABSORB_OUTPUT: FixedKernel = FixedKernel {
    family: "mla",
    name: "mla_absorb_output",
    params: "HeadGemmParams",
    threads: 160,
    smem_bytes: 4 * (8 + 16) * 1024 + 16 * 1024 + 1024,
};
/// MLA: attention over two parts of the keys, put together.
pub const MERGE_STATES: FixedKernel = FixedKernel {
    family: "mla",
    name: "merge_states",
    params: "MergeStatesParams",
    threads: 256,
    smem_bytes: 0,
};
/// New tokens into the KV cache.
pub const KV_APPEND: FixedKernel =
    FixedKernel { family: "mla", name: "kv_append", params: "KvAppendParams", threads: 256, smem_bytes: 0 };
/// Rotary position embedding.
pub const ROPE: FixedKernel =
    FixedKernel { family: "mla", name: "rope", params: "RopeParams", threads: 256, smem_bytes: 0 };

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    let fixed =
        [MLA_SCHEDULE, MLA_COMBINE, MLA_ABSORB_QUERY, MLA_ABSORB_OUTPUT, MERGE_STATES, KV_APPEND, ROPE];
    MLA_INSTANCES.iter().map(MlaInstance::kernel).chain(fixed.map(FixedKernel::kernel))
}
