//! The table of compiled kernels. `build.rs` includes this same file: nvcc and the host compiler build from one list.

/// Element type of the result D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputType {
    /// BF16, rounded once to nearest even.
    Bf16,
    /// FP32, the accumulator itself.
    F32,
}

impl OutputType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Which tiles the CTAs of a GEMM walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Those of one matrix D.
    Dense,
    /// Those of each expert's rows, which the device finds in its own memory.
    Grouped,
}

/// Most experts of a grouped GEMM: its table of segments lies in shared memory.
pub const MAX_EXPERTS: u32 = 512;

/// One compiled configuration of `cuda/kernels/fp8_gemm.cuh` or `grouped_fp8_gemm.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmInstance {
    /// Rows of D per CTA: 64 (one math warpgroup), 128 or 256 (two).
    pub block_m: u32,
    /// Columns of D per CTA: divides 128, so that one scale of B serves the whole tile, or 192, which has two.
    pub block_n: u32,
    /// CTAs that share B by multicast: 1 or 2, neighbours along M.
    pub cluster: u32,
    /// Element type of D.
    pub output: OutputType,
    /// Which tiles.
    pub schedule: Schedule,
}

/// Shared memory a CTA can use on compute capability 9.0: 227 KiB.
pub const MAX_SMEM_BYTES: u32 = 227 * 1024;

/// Depth of the ring is capped here: twelve stages already hold more than the latency of DRAM needs.
const MAX_STAGES: u32 = 12;

impl GemmInstance {
    /// Warpgroups that multiply.
    pub const fn math_warpgroups(&self) -> u32 {
        if self.block_m == 64 { 1 } else { 2 }
    }

    /// Threads per CTA: one producer warpgroup and the math warpgroups.
    pub const fn threads(&self) -> u32 {
        128 * (1 + self.math_warpgroups())
    }

    /// Bytes of one ring stage: A, B and the scales of A.
    pub const fn stage_bytes(&self) -> u32 {
        128 * self.block_m + 128 * self.block_n + 4 * self.block_m
    }

    const fn smem_bytes_with(&self, stages: u32) -> u32 {
        let d = self.block_m * self.block_n * self.output.bytes();
        let barriers = 2 * 8 * stages;
        let ring = (stages * self.stage_bytes() + d + barriers).next_multiple_of(1024);
        let table = match self.schedule {
            Schedule::Dense => 0,
            Schedule::Grouped => 4 * (3 * MAX_EXPERTS + 1),
        };
        (ring + table).next_multiple_of(1024)
    }

    /// Slots of the ring: as many as fit, at most twelve.
    pub const fn stages(&self) -> u32 {
        let mut stages = 1;
        while stages < MAX_STAGES && self.smem_bytes_with(stages + 1) <= MAX_SMEM_BYTES {
            stages += 1;
        }
        stages
    }

    /// Dynamic shared memory per CTA; the generated C++ asserts that it is `sizeof(SharedStorage)`.
    pub const fn smem_bytes(&self) -> u32 {
        self.smem_bytes_with(self.stages())
    }

    /// Name of the kernel, as in `fp8_gemm_m128_n128_c2_bf16`.
    pub fn name(&self) -> String {
        let output = match self.output {
            OutputType::Bf16 => "bf16",
            OutputType::F32 => "f32",
        };
        let schedule = match self.schedule {
            Schedule::Dense => "",
            Schedule::Grouped => "grouped_",
        };
        format!("{schedule}fp8_gemm_m{}_n{}_c{}_{output}", self.block_m, self.block_n, self.cluster)
    }
}

const fn gemm(block_m: u32, block_n: u32, cluster: u32, output: OutputType) -> GemmInstance {
    GemmInstance { block_m, block_n, cluster, output, schedule: Schedule::Dense }
}

const fn grouped(block_m: u32, block_n: u32) -> GemmInstance {
    GemmInstance { block_m, block_n, cluster: 1, output: OutputType::Bf16, schedule: Schedule::Grouped }
}

/// Every compiled GEMM. The planner chooses among these; all give the same bits.
pub const GEMM_INSTANCES: &[GemmInstance] = &[
    gemm(64, 16, 1, OutputType::Bf16),
    gemm(64, 32, 1, OutputType::Bf16),
    gemm(64, 64, 1, OutputType::Bf16),
    gemm(64, 128, 1, OutputType::Bf16),
    gemm(128, 128, 1, OutputType::Bf16),
    gemm(128, 128, 2, OutputType::Bf16),
    gemm(128, 192, 1, OutputType::Bf16),
    gemm(128, 192, 2, OutputType::Bf16),
    gemm(256, 128, 1, OutputType::Bf16),
    gemm(256, 128, 2, OutputType::Bf16),
    gemm(64, 32, 1, OutputType::F32),
    gemm(64, 128, 1, OutputType::F32),
    gemm(128, 128, 1, OutputType::F32),
    gemm(128, 128, 2, OutputType::F32),
];

/// Every compiled grouped GEMM. A cluster would span two experts, so there is none.
pub const GROUPED_GEMM_INSTANCES: &[GemmInstance] =
    &[grouped(64, 32), grouped(64, 64), grouped(64, 128), grouped(128, 128), grouped(128, 192)];

/// Numbers of a latent vector: the values of MLA, and the first part of its keys.
pub const MLA_LATENT: u32 = 512;
/// Numbers of a key that carry the position.
pub const MLA_ROPE: u32 = 64;
/// Keys that MLA decode takes at a time: splits and pages are multiples of it.
pub const MLA_BLOCK_TOKENS: u32 = 64;

/// One compiled configuration of `cuda/kernels/mla_decode.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MlaInstance {
    /// The cache holds 656 bytes a token, to be dequantised on the way; otherwise 576 BF16.
    pub fp8_cache: bool,
    /// CTAs that share the keys, each bringing in half of them: 1 or 2, neighbours along the rows.
    pub cluster: u32,
}

impl MlaInstance {
    /// Threads per CTA: two warpgroups that multiply and a producer.
    pub const fn threads(&self) -> u32 {
        3 * 128
    }

    /// Dynamic shared memory per CTA: Q, two blocks of keys, the weights, factors and barriers.
    pub const fn smem_bytes(&self) -> u32 {
        let block = MLA_BLOCK_TOKENS * (MLA_LATENT + MLA_ROPE) * 2;
        let weights = 64 * MLA_BLOCK_TOKENS * 2;
        let barriers = 8 * (2 * (9 + 3) + 4);
        (3 * block + weights + 64 * 4 + barriers).next_multiple_of(1024)
    }

    /// Name of the kernel, as in `mla_decode_bf16_c2`.
    pub fn name(&self) -> String {
        let cache = if self.fp8_cache { "fp8" } else { "bf16" };
        format!("mla_decode_{cache}_c{}", self.cluster)
    }
}

/// Every compiled MLA decode; all give the same bits.
pub const MLA_INSTANCES: &[MlaInstance] = &[
    MlaInstance { fp8_cache: false, cluster: 1 },
    MlaInstance { fp8_cache: false, cluster: 2 },
    MlaInstance { fp8_cache: true, cluster: 1 },
    MlaInstance { fp8_cache: true, cluster: 2 },
];

/// One kernel that has a single configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedKernel {
    /// Name of the kernel, of its function and of its file in `cuda/kernels/`.
    pub name: &'static str,
    /// Name of its parameter struct in `cuda/params.h`.
    pub params: &'static str,
    /// Threads per CTA.
    pub threads: u32,
    /// Dynamic shared memory per CTA.
    pub smem_bytes: u32,
}

/// BF16 to E4M3 with one scale per 1x128.
pub const QUANTIZE_1X128: FixedKernel =
    FixedKernel { name: "quantize_1x128", params: "Quantize1x128Params", threads: 256, smem_bytes: 0 };
/// BF16 to E4M3 with one scale per 128x128.
pub const QUANTIZE_128X128: FixedKernel =
    FixedKernel { name: "quantize_128x128", params: "Quantize128x128Params", threads: 256, smem_bytes: 32 };
/// Scales `[m, k/128]` to the layout `[k/128, m]`.
pub const TRANSPOSE_SCALES: FixedKernel = FixedKernel {
    name: "transpose_scales",
    params: "TransposeScalesParams",
    threads: 256,
    smem_bytes: 32 * 33 * 4,
};
/// Expert map: slots per block and group.
pub const EXPERT_MAP_COUNT: FixedKernel = FixedKernel {
    name: "expert_map_count",
    params: "ExpertMapParams",
    threads: 256,
    smem_bytes: (256 + MAX_EXPERTS + 1) * 4,
};
/// Expert map: running sums over the blocks.
pub const EXPERT_MAP_SCAN: FixedKernel =
    FixedKernel { name: "expert_map_scan", params: "ExpertMapParams", threads: 256, smem_bytes: 0 };
/// Expert map: rows of the slots.
pub const EXPERT_MAP_SCATTER: FixedKernel = FixedKernel {
    name: "expert_map_scatter",
    params: "ExpertMapParams",
    threads: 256,
    smem_bytes: (256 + MAX_EXPERTS + 8) * 4,
};
/// Rows gathered by expert, BF16 to E4M3 with one scale per 1x128.
pub const GATHER_QUANTIZE: FixedKernel =
    FixedKernel { name: "gather_quantize", params: "GatherQuantizeParams", threads: 256, smem_bytes: 0 };
/// SwiGLU, BF16 to E4M3 with one scale per 1x128.
pub const SWIGLU_QUANTIZE: FixedKernel =
    FixedKernel { name: "swiglu_quantize", params: "SwigluQuantizeParams", threads: 256, smem_bytes: 0 };
/// Weighted sum of the experts' rows of a token.
pub const COMBINE: FixedKernel =
    FixedKernel { name: "combine", params: "CombineParams", threads: 256, smem_bytes: 0 };
/// Router: logits of chunks of K.
pub const GATE_LOGITS: FixedKernel = FixedKernel {
    name: "gate_logits",
    params: "GateLogitsParams",
    threads: 128,
    smem_bytes: (32 + 64) * 36 * 4,
};
/// Router: scores, groups, the best K experts, weights.
pub const GATE_SELECT: FixedKernel =
    FixedKernel { name: "gate_select", params: "GateSelectParams", threads: 128, smem_bytes: 0 };
/// Tokens of every expert, counted.
pub const EXPERT_LOAD: FixedKernel =
    FixedKernel { name: "expert_load", params: "ExpertLoadParams", threads: 256, smem_bytes: 0 };
/// The router's bias after a step.
pub const BIAS_UPDATE: FixedKernel =
    FixedKernel { name: "bias_update", params: "BiasUpdateParams", threads: 512, smem_bytes: 0 };
/// How unevenly each sequence uses the experts.
pub const SEQUENCE_BALANCE_LOSS: FixedKernel = FixedKernel {
    name: "sequence_balance_loss",
    params: "SequenceBalanceLossParams",
    threads: 256,
    smem_bytes: 2 * 8 * MAX_EXPERTS * 4,
};

/// MLA decode: splits of the sequences.
pub const MLA_SCHEDULE: FixedKernel =
    FixedKernel { name: "mla_schedule", params: "MlaScheduleParams", threads: 128, smem_bytes: 0 };
/// MLA decode: the splits of a row, added up.
pub const MLA_COMBINE: FixedKernel =
    FixedKernel { name: "mla_combine", params: "MlaCombineParams", threads: 256, smem_bytes: 0 };
/// MLA: queries into the latent space of the cache.
pub const MLA_ABSORB_QUERY: FixedKernel = FixedKernel {
    name: "mla_absorb_query",
    params: "HeadGemmParams",
    threads: 160,
    smem_bytes: 2 * (8 + 32) * 1024 + 32 * 1024 + 1024,
};
/// MLA: attention over latents into the space of the values.
pub const MLA_ABSORB_OUTPUT: FixedKernel = FixedKernel {
    name: "mla_absorb_output",
    params: "HeadGemmParams",
    threads: 160,
    smem_bytes: 4 * (8 + 16) * 1024 + 16 * 1024 + 1024,
};
/// MLA: attention over two parts of the keys, put together.
pub const MERGE_STATES: FixedKernel =
    FixedKernel { name: "merge_states", params: "MergeStatesParams", threads: 256, smem_bytes: 0 };
/// New tokens into the KV cache.
pub const KV_APPEND: FixedKernel =
    FixedKernel { name: "kv_append", params: "KvAppendParams", threads: 256, smem_bytes: 0 };
/// Rotary position embedding.
pub const ROPE: FixedKernel = FixedKernel { name: "rope", params: "RopeParams", threads: 256, smem_bytes: 0 };

/// Every kernel that has a single configuration.
#[allow(dead_code, reason = "the builds of the kernels read it, the crate does not")]
pub const FIXED_KERNELS: &[FixedKernel] = &[
    QUANTIZE_1X128,
    QUANTIZE_128X128,
    TRANSPOSE_SCALES,
    EXPERT_MAP_COUNT,
    EXPERT_MAP_SCAN,
    EXPERT_MAP_SCATTER,
    GATHER_QUANTIZE,
    SWIGLU_QUANTIZE,
    COMBINE,
    GATE_LOGITS,
    GATE_SELECT,
    EXPERT_LOAD,
    BIAS_UPDATE,
    SEQUENCE_BALANCE_LOSS,
    MLA_SCHEDULE,
    MLA_COMBINE,
    MLA_ABSORB_QUERY,
    MLA_ABSORB_OUTPUT,
    MERGE_STATES,
    KV_APPEND,
    ROPE,
];

/// Name, threads per CTA and dynamic shared memory of every kernel.
pub fn launch_sizes() -> impl Iterator<Item = (String, u32, u32)> {
    let gemms = GEMM_INSTANCES.iter().chain(GROUPED_GEMM_INSTANCES);
    let gemms = gemms.map(|instance| (instance.name(), instance.threads(), instance.smem_bytes()));
    let attention = MLA_INSTANCES.iter();
    let attention = attention.map(|instance| (instance.name(), instance.threads(), instance.smem_bytes()));
    let fixed = FIXED_KERNELS.iter();
    gemms
        .chain(attention)
        .chain(fixed.map(|kernel| (kernel.name.to_owned(), kernel.threads, kernel.smem_bytes)))
}
