//! The kernels of `cuda/mla`.

use super::{Constant, Entry, FixedKernel, Kernel, PIECE, WARP, agreement, config};

/// Numbers of a latent vector: the values of MLA, and the first part of its keys.
pub const MLA_LATENT: u32 = 512;
/// Numbers of a key that carry the position.
pub const MLA_ROPE: u32 = 64;
/// Numbers of a head's query, or key, that carry no position, as DeepSeek-V3 has them.
pub const MLA_NOPE: u32 = 128;
/// Numbers of a head's value, as DeepSeek-V3 has them.
pub const MLA_VALUE: u32 = 128;
/// Keys that MLA decode takes at a time: splits are multiples of it.
pub const MLA_BLOCK_KEYS: u32 = 64;
/// Rows of Q (heads of query tokens) of a CTA.
pub const MLA_BLOCK_ROWS: u32 = 64;
/// Blocks of keys in the shared memory of MLA decode.
pub const MLA_STAGES: u32 = 2;
/// Columns of a tile of Q, keys or the output, in BF16: a swizzled row of 128 bytes.
pub const MLA_TILE_COLUMNS: u32 = 64;
/// Codes of a row of the FP8 cache that share a scale.
pub const KV_SCALE_BLOCK: u32 = 128;

/// What the family's kernels take for granted, as the host does.
const WIDTHS: &[Constant] =
    &[("MLA_LATENT", MLA_LATENT), ("MLA_ROPE", MLA_ROPE), ("MLA_BLOCK_KEYS", MLA_BLOCK_KEYS)];
/// Those that move rows piece by piece.
const ROWS: &[Constant] = &[("MLA_LATENT", MLA_LATENT), ("MLA_ROPE", MLA_ROPE), ("kPieceElements", PIECE)];
/// Those that know what a row of the cache holds.
const CACHE: &[Constant] =
    &[("MLA_LATENT", MLA_LATENT), ("MLA_ROPE", MLA_ROPE), ("mla::kKvScaleBlock", KV_SCALE_BLOCK)];

/// What a row of the cache holds. Without a rotated key (`rope` is 0) its part of the row is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 576 BF16: 512 of the latent vector, 64 of the rotated key.
    Bf16,
    /// 656 bytes: 512 E4M3 codes of the latent vector, 4 FP32 scales (one per 128 codes, in the machine's byte order),
    /// 64 BF16 of the rotated key. A value is `bf16(code * scale)`, the product rounded to FP32 first. vLLM's `fp8_ds_mla`.
    Fp8,
    /// 576 bytes: 512 E4M3 codes of the latent vector, 64 of the rotated key. One FP32 scale for the whole cache, which the
    /// caller has chosen; a value is `bf16(code * scale)`, the product rounded to FP32 first. vLLM's `fp8` and `fp8_e4m3`.
    Fp8PerTensor,
}

impl KvFormat {
    /// As in names of kernels and operations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Fp8PerTensor => "fp8_per_tensor",
        }
    }
}

/// One compiled configuration of `cuda/mla/mla_decode.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MlaInstance {
    /// What the cache holds; codes are dequantised on the way.
    pub format: KvFormat,
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

    /// Dynamic shared memory per CTA, in tiles of 64 rows or keys, 128 bytes each: Q, two blocks of keys, their weights; then
    /// a factor per row, and barriers.
    pub const fn smem_bytes(&self) -> u32 {
        const TILE: u32 = MLA_BLOCK_KEYS * MLA_TILE_COLUMNS * 2;
        const TILES: u32 = (MLA_LATENT + MLA_ROPE) / MLA_TILE_COLUMNS;
        let (q, keys, weights) = (TILES * TILE, MLA_STAGES * TILES * TILE, TILE);
        let factors = MLA_BLOCK_ROWS * 4;
        // A tile of keys becomes full by itself, and empty with its group: left values, right ones, position.
        let (of_keys, of_q, of_weights) = (MLA_STAGES * (TILES + 3), 2, 2);
        let barriers = 8 * (of_keys + of_q + of_weights);
        (q + keys + weights + factors + barriers).next_multiple_of(1024)
    }

    /// Name of the kernel, as in `mla_decode_bf16_c2`.
    pub fn name(&self) -> String {
        format!("mla_decode_{}_c{}", self.format.name(), self.cluster)
    }

    fn kernel(&self) -> Kernel {
        let (cluster, smem_bytes) = (self.cluster, self.smem_bytes());
        let cache = match self.format {
            KvFormat::Bf16 => "Cache::kBf16",
            KvFormat::Fp8 => "Cache::kFp8",
            KvFormat::Fp8PerTensor => "Cache::kFp8PerTensor",
        };
        let members = [("Cache", "kCache", cache.to_owned()), ("int", "kCluster", cluster.to_string())];
        let own = [
            ("mla::MlaDecodeConfig::kThreads", self.threads()),
            ("mla::MlaDecodeConfig::kBlockRows", MLA_BLOCK_ROWS),
            ("mla::MlaDecodeConfig::kStages", MLA_STAGES),
            ("mla::MlaDecodeConfig::kTileColumns", MLA_TILE_COLUMNS),
            ("mla::kKvScaleBlock", KV_SCALE_BLOCK),
            ("sizeof(mla::MlaDecodeStorage<Config>)", smem_bytes),
        ];
        let config = config("Config", " : mla::MlaDecodeConfig", members);
        let code = config + &agreement(WIDTHS) + &agreement(&own);
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
    MlaInstance { format: KvFormat::Bf16, cluster: 1 },
    MlaInstance { format: KvFormat::Bf16, cluster: 2 },
    MlaInstance { format: KvFormat::Fp8, cluster: 1 },
    MlaInstance { format: KvFormat::Fp8, cluster: 2 },
    MlaInstance { format: KvFormat::Fp8PerTensor, cluster: 1 },
    MlaInstance { format: KvFormat::Fp8PerTensor, cluster: 2 },
];

/// MLA decode: splits of the sequences, a thread per sequence.
pub const MLA_SCHEDULE: FixedKernel =
    FixedKernel::new("mla", "mla_schedule", "MlaScheduleParams", 128, WIDTHS);

/// Rows that a CTA combines at a time, with four warps each.
pub const MLA_COMBINE_ROWS: u32 = 2;
/// CTAs that combine on a multiprocessor at the same time.
pub const MLA_COMBINE_CTAS: u32 = 8;
/// MLA decode: the splits of a row, added up.
pub const MLA_COMBINE: FixedKernel =
    FixedKernel::new("mla", "mla_combine", "MlaCombineParams", MLA_COMBINE_ROWS * 4 * WARP, WIDTHS)
        .with_constants(&[("kRows", MLA_COMBINE_ROWS)]);

/// Tokens of a head that a CTA of MLA prefill takes: two warpgroups of 64.
pub const MLA_PREFILL_BLOCK_ROWS: u32 = 128;

/// One compiled configuration of `cuda/mla/mla_prefill.cuh`: a CTA per tile of tokens of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MlaPrefillInstance {
    /// Numbers of a head's query, or key, that carry no position.
    pub nope: u32,
    /// Numbers of a head's value.
    pub value: u32,
    /// Keys that it takes at a time: part of the bits of a result.
    pub block_keys: u32,
}

impl MlaPrefillInstance {
    /// Name of its parameter struct.
    pub(crate) const PARAMS: &'static str = "MlaPrefillParams";
    /// Of keys, and of values.
    pub const STAGES: u32 = 2;

    /// Threads per CTA: two warpgroups that multiply and a producer.
    pub const fn threads(&self) -> u32 {
        3 * 128
    }

    /// Dynamic shared memory per CTA: queries, and the stages of keys and of values, in columns of BF16; then barriers.
    pub const fn smem_bytes(&self) -> u32 {
        let key = self.nope + MLA_ROPE;
        let columns = MLA_PREFILL_BLOCK_ROWS * key + Self::STAGES * self.block_keys * (key + self.value);
        // Queries become full once; a stage of keys or values becomes full and empty.
        (2 * columns + 8 * (1 + 2 * 2 * Self::STAGES)).next_multiple_of(1024)
    }

    /// Name of the kernel, as in `mla_prefill_n128_v128`.
    pub fn name(&self) -> String {
        format!("mla_prefill_n{}_v{}", self.nope, self.value)
    }

    fn kernel(&self) -> Kernel {
        let smem_bytes = self.smem_bytes();
        let members = [
            ("kThreads", self.threads()),
            ("kBlockRows", MLA_PREFILL_BLOCK_ROWS),
            ("kBlockKeys", self.block_keys),
            ("kStages", Self::STAGES),
            ("kNope", self.nope),
            ("kValue", self.value),
        ];
        let members = members.map(|(name, value)| ("uint32_t", name, value.to_string()));
        let agreed = [
            ("MLA_ROPE", MLA_ROPE),
            ("mla::kPrefillTileColumns", MLA_TILE_COLUMNS),
            ("sizeof(mla::MlaPrefillStorage<Config>)", smem_bytes),
        ];
        let code = config("Config", "", members) + &agreement(&agreed);
        let entry = Entry {
            name: &self.name(),
            function: "mla::mla_prefill_kernel<Config>",
            params: Self::PARAMS,
            threads: self.threads(),
            cluster: 1,
        };
        entry.kernel("mla", "mla/mla_prefill.cuh", &code, smem_bytes)
    }
}

/// Every compiled MLA prefill: DeepSeek-V3's heads, and GLM-5's, of which shared memory holds blocks of half as many keys.
pub const MLA_PREFILL_INSTANCES: &[MlaPrefillInstance] = &[
    MlaPrefillInstance { nope: MLA_NOPE, value: MLA_VALUE, block_keys: 128 },
    MlaPrefillInstance { nope: 192, value: 256, block_keys: 64 },
];

/// Rows and columns of a box of the head GEMM, in BF16; the tokens of its tiles.
pub const HEAD_GEMM_BOX: u32 = 64;
/// A warpgroup that multiplies, and a producer's warp.
const HEAD_GEMM_THREADS: u32 = 128 + WARP;
const BOXES: &[Constant] = &[("MLA_LATENT", MLA_LATENT), ("mla::HeadGemmConfig::kBox", HEAD_GEMM_BOX)];

/// Stages of A and B, and the tile of D, in boxes; two barriers per stage.
const fn head_gemm_smem(block_n: u32, stages: u32) -> u32 {
    let (a, b, d) = (1, block_n / HEAD_GEMM_BOX, block_n / HEAD_GEMM_BOX);
    let boxes = stages * (a + b) + d;
    (boxes * HEAD_GEMM_BOX * HEAD_GEMM_BOX * 2 + stages * 2 * 8).next_multiple_of(1024)
}

/// Columns of a tile of the absorbed queries.
pub const ABSORB_QUERY_BLOCK_N: u32 = 256;
/// Stages of its ring.
pub const ABSORB_QUERY_STAGES: u32 = 2;
/// MLA: queries into the latent space of the cache.
pub const MLA_ABSORB_QUERY: FixedKernel =
    FixedKernel::new("mla", "mla_absorb_query", "HeadGemmParams", HEAD_GEMM_THREADS, BOXES)
        .with_constants(&[("kBlockN", ABSORB_QUERY_BLOCK_N), ("kStages", ABSORB_QUERY_STAGES)])
        .with_storage("MlaAbsorbQueryStorage", head_gemm_smem(ABSORB_QUERY_BLOCK_N, ABSORB_QUERY_STAGES));

/// Columns of a tile of the outputs.
pub const ABSORB_OUTPUT_BLOCK_N: u32 = 128;
/// Stages of its ring.
pub const ABSORB_OUTPUT_STAGES: u32 = 4;
/// MLA: attention over latents into the space of the values.
pub const MLA_ABSORB_OUTPUT: FixedKernel =
    FixedKernel::new("mla", "mla_absorb_output", "HeadGemmParams", HEAD_GEMM_THREADS, BOXES)
        .with_constants(&[("kBlockN", ABSORB_OUTPUT_BLOCK_N), ("kStages", ABSORB_OUTPUT_STAGES)])
        .with_storage("MlaAbsorbOutputStorage", head_gemm_smem(ABSORB_OUTPUT_BLOCK_N, ABSORB_OUTPUT_STAGES));

/// MLA: attention over two parts of the keys, put together.
pub const MERGE_STATES: FixedKernel = FixedKernel::new("mla", "merge_states", "MergeStatesParams", 256, ROWS);

/// Tokens of a CTA that appends, a warp each.
pub const KV_APPEND_TOKENS: u32 = 8;
/// New tokens into the KV cache.
pub const KV_APPEND: FixedKernel =
    FixedKernel::new("mla", "kv_append", "KvAppendParams", KV_APPEND_TOKENS * WARP, CACHE)
        .with_constants(&[("kTokens", KV_APPEND_TOKENS)]);

/// Rotary position embedding.
pub const ROPE: FixedKernel = FixedKernel::new("mla", "rope", "RopeParams", 256, ROWS);

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    let fixed =
        [MLA_SCHEDULE, MLA_COMBINE, MLA_ABSORB_QUERY, MLA_ABSORB_OUTPUT, MERGE_STATES, KV_APPEND, ROPE];
    let decode = MLA_INSTANCES.iter().map(MlaInstance::kernel);
    let prefill = MLA_PREFILL_INSTANCES.iter().map(MlaPrefillInstance::kernel);
    decode.chain(prefill).chain(fixed.map(FixedKernel::kernel))
}
