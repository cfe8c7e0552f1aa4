//! The kernels of `cuda/gemm`.

use super::quant::BLOCK;
use super::{Constant, EXPERTS, Entry, Kernel, MAX_EXPERTS, MAX_SMEM_BYTES, agreement, config};

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
    /// The same with as many columns of the left half of D as of the right one: those of gate and of up that belong together.
    GateUp,
}

/// One compiled configuration of `cuda/gemm/fp8_gemm.cuh` or `grouped_fp8_gemm.cuh`, or of `cuda/moe/gate_up_swiglu.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmInstance {
    /// Rows of D per CTA: 64 (one math warpgroup), 128 or 256 (two).
    pub block_m: u32,
    /// Columns of D per CTA: a multiple of 16, such that no tile has columns of more than two scales of B.
    pub block_n: u32,
    /// CTAs that share B by multicast: 1 or 2, neighbours along M.
    pub cluster: u32,
    /// Element type of D.
    pub output: OutputType,
    /// Which tiles.
    pub schedule: Schedule,
}

/// Rows of a slice of a tile: what one `wgmma` multiplies, and one box of D holds.
pub const SLICE_ROWS: u32 = 64;

/// What every GEMM takes for granted, as the host does.
const BLOCKS: &[Constant] = &[
    ("gemm::Fp8GemmConfig::kBlockK", BLOCK),
    ("gemm::Fp8GemmConfig::kScaleColumns", BLOCK),
    ("gemm::Fp8GemmConfig::kWgmmaM", SLICE_ROWS),
];

/// Depth of the ring is capped here: twelve stages already hold more than the latency of DRAM needs.
const MAX_STAGES: u32 = 12;

impl GemmInstance {
    /// Warpgroups that multiply.
    pub const fn math_warpgroups(&self) -> u32 {
        if self.block_m == SLICE_ROWS { 1 } else { 2 }
    }

    /// Threads per CTA: one producer warpgroup and the math warpgroups.
    pub const fn threads(&self) -> u32 {
        128 * (1 + self.math_warpgroups())
    }

    /// Rows of a box of B: what a CTA of a cluster loads, or the columns of one half of D.
    pub const fn b_box_rows(&self) -> u32 {
        match self.schedule {
            Schedule::Dense | Schedule::Grouped => self.block_n / self.cluster,
            Schedule::GateUp => self.block_n / 2,
        }
    }

    /// Tiles that a CTA takes together: of gate and up as many as have a block of 128 columns of their activation.
    pub const fn tiles_together(&self) -> u32 {
        match self.schedule {
            Schedule::Dense | Schedule::Grouped => 1,
            Schedule::GateUp => 2 * BLOCK / self.block_n,
        }
    }

    /// Columns of a box of D: whole boxes make a tile, and a swizzled row of at most 128 bytes holds one's.
    pub const fn d_box_columns(&self) -> u32 {
        let (row, whole) = (128 / self.output.bytes(), 1 << self.block_n.trailing_zeros());
        if whole < row { whole } else { row }
    }

    /// Bytes of one ring stage: A, B and the scales of A.
    pub const fn stage_bytes(&self) -> u32 {
        BLOCK * self.block_m + BLOCK * self.block_n + 4 * self.block_m
    }

    const fn smem_bytes_with(&self, stages: u32) -> u32 {
        let d = self.block_m * self.block_n * self.output.bytes();
        let barriers = 2 * 8 * stages;
        let ring = (stages * self.stage_bytes() + d + barriers).next_multiple_of(1024);
        let table = match self.schedule {
            Schedule::Dense => 0,
            Schedule::Grouped | Schedule::GateUp => 4 * (3 * MAX_EXPERTS + 1),
        };
        (ring + table).next_multiple_of(1024)
    }

    /// Stages of the ring: as many as fit, at most twelve.
    pub const fn stages(&self) -> u32 {
        let mut stages = 1;
        while stages < MAX_STAGES && self.smem_bytes_with(stages + 1) <= MAX_SMEM_BYTES {
            stages += 1;
        }
        stages
    }

    /// Dynamic shared memory per CTA; the generated C++ asserts that it is the storage's `sizeof`.
    pub const fn smem_bytes(&self) -> u32 {
        self.smem_bytes_with(self.stages())
    }

    /// Name of the kernel, as in `fp8_gemm_m128_n128_c2_bf16`.
    pub fn name(&self) -> String {
        let output = match self.output {
            OutputType::Bf16 => "bf16",
            OutputType::F32 => "f32",
        };
        let function = self.function();
        format!("{function}_m{}_n{}_c{}_{output}", self.block_m, self.block_n, self.cluster)
    }

    /// Name of its function and of the file it stands in.
    const fn function(&self) -> &'static str {
        match self.schedule {
            Schedule::Dense => "fp8_gemm",
            Schedule::Grouped => "grouped_fp8_gemm",
            Schedule::GateUp => "gate_up_swiglu",
        }
    }

    /// Name of its parameter struct.
    pub(crate) const fn params(&self) -> &'static str {
        match self.schedule {
            Schedule::Dense => "Fp8GemmParams",
            Schedule::Grouped => "GroupedFp8GemmParams",
            Schedule::GateUp => "GateUpSwigluParams",
        }
    }

    /// The C++ configuration, a struct called `name`.
    pub(super) fn config(&self, name: &str) -> String {
        let output = match self.output {
            OutputType::Bf16 => "Output::kBf16",
            OutputType::F32 => "Output::kF32",
        };
        let members = [
            ("int", "kBlockM", self.block_m.to_string()),
            ("int", "kBlockN", self.block_n.to_string()),
            ("int", "kStages", self.stages().to_string()),
            ("int", "kCluster", self.cluster.to_string()),
            ("Output", "kOutput", output.to_owned()),
        ];
        let panels = (self.schedule == Schedule::GateUp).then(|| ("int", "kPanels", "2".to_owned()));
        config(name, " : gemm::Fp8GemmConfig", members.into_iter().chain(panels))
    }

    pub(super) fn kernel(&self) -> Kernel {
        let (smem_bytes, function) = (self.smem_bytes(), self.function());
        let (family, storage, experts) = match self.schedule {
            Schedule::Dense => ("gemm", "Fp8GemmStorage", &[][..]),
            Schedule::Grouped => ("gemm", "GroupedFp8GemmStorage", EXPERTS),
            Schedule::GateUp => ("moe", "GroupedFp8GemmStorage", EXPERTS),
        };
        let storage = format!("sizeof(gemm::{storage}<Config>)");
        let own = [
            ("gemm::Fp8GemmTile<Config>::kThreads", self.threads()),
            ("gemm::Fp8GemmTile<Config>::kChunkColumns", self.d_box_columns()),
            (&*storage, smem_bytes),
        ];
        let code = self.config("Config") + &agreement(BLOCKS) + &agreement(experts) + &agreement(&own);
        let entry = Entry {
            name: &self.name(),
            function: &format!("{family}::{function}<Config>"),
            params: self.params(),
            threads: self.threads(),
            cluster: self.cluster,
        };
        entry.kernel(family, &format!("{family}/{function}.cuh"), &code, smem_bytes)
    }
}

const fn gemm(block_m: u32, block_n: u32, cluster: u32, output: OutputType) -> GemmInstance {
    GemmInstance { block_m, block_n, cluster, output, schedule: Schedule::Dense }
}

const fn grouped(block_m: u32, block_n: u32, cluster: u32) -> GemmInstance {
    GemmInstance { block_m, block_n, cluster, output: OutputType::Bf16, schedule: Schedule::Grouped }
}

/// Every compiled GEMM. The planner chooses among these; all give the same bits.
pub const GEMM_INSTANCES: &[GemmInstance] = &[
    gemm(64, 16, 1, OutputType::Bf16),
    gemm(64, 32, 1, OutputType::Bf16),
    gemm(64, 64, 1, OutputType::Bf16),
    gemm(64, 96, 1, OutputType::Bf16),
    gemm(64, 128, 1, OutputType::Bf16),
    gemm(128, 64, 2, OutputType::Bf16),
    gemm(128, 96, 1, OutputType::Bf16),
    gemm(128, 128, 1, OutputType::Bf16),
    gemm(128, 128, 2, OutputType::Bf16),
    gemm(128, 144, 2, OutputType::Bf16),
    gemm(128, 160, 2, OutputType::Bf16),
    gemm(128, 192, 1, OutputType::Bf16),
    gemm(128, 192, 2, OutputType::Bf16),
    gemm(256, 128, 1, OutputType::Bf16),
    gemm(256, 128, 2, OutputType::Bf16),
    gemm(64, 32, 1, OutputType::F32),
    gemm(64, 128, 1, OutputType::F32),
    gemm(128, 128, 1, OutputType::F32),
    gemm(128, 128, 2, OutputType::F32),
];

/// Every compiled grouped GEMM. A cluster takes an expert's tiles in pairs, the last of which may be half empty.
pub const GROUPED_GEMM_INSTANCES: &[GemmInstance] = &[
    grouped(64, 32, 1),
    grouped(64, 64, 1),
    grouped(64, 128, 1),
    grouped(128, 128, 1),
    grouped(128, 128, 2),
    grouped(128, 192, 1),
    grouped(128, 192, 2),
];

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    GEMM_INSTANCES.iter().chain(GROUPED_GEMM_INSTANCES).map(GemmInstance::kernel)
}
