//! What the emulator counts.

use std::collections::BTreeMap;
use std::fmt;

use super::bindings::EmuCounts;

/// Columns of a wgmma's D come in steps of this.
const COLUMN_STEP: u32 = 8;

/// Operands of a wgmma, in the order of `emu::Operands`.
const OPERANDS: [WgmmaOperands; 4] =
    [WgmmaOperands::E4m3, WgmmaOperands::Bf16, WgmmaOperands::Bf16, WgmmaOperands::Bf16ARegisters];

/// What a wgmma multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WgmmaOperands {
    /// E4M3, both operands in shared memory: `m64nNk32`.
    E4m3,
    /// BF16, both operands in shared memory: `m64nNk16`.
    Bf16,
    /// BF16, A in registers: `m64nNk16`.
    Bf16ARegisters,
}

/// A shape of wgmma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wgmma {
    /// What it multiplies.
    pub operands: WgmmaOperands,
    /// N, the columns of its result of 64 rows.
    pub columns: u32,
}

impl Wgmma {
    /// Its depth, K.
    pub fn depth(self) -> u32 {
        match self.operands {
            WgmmaOperands::E4m3 => 32,
            WgmmaOperands::Bf16 | WgmmaOperands::Bf16ARegisters => 16,
        }
    }

    /// Multiplications and additions.
    pub fn flops(self) -> u64 {
        2 * 64 * u64::from(self.columns) * u64::from(self.depth())
    }
}

/// As PTX calls it: `m64n128k32.e4m3`; `.ra`: A in registers.
impl fmt::Display for Wgmma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operands = match self.operands {
            WgmmaOperands::E4m3 => "e4m3",
            WgmmaOperands::Bf16 => "bf16",
            WgmmaOperands::Bf16ARegisters => "bf16.ra",
        };
        write!(f, "m64n{}k{}.{operands}", self.columns, self.depth())
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What launches on the emulator did: instructions and bytes, which a GPU would execute and move as well. No times.
        ///
        /// What threads do is counted for each thread. Wavefronts are a model (`emulated/machine/wavefronts.h`), counted with
        /// [`EmulatorOptions::count_wavefronts`](super::EmulatorOptions::count_wavefronts).
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            /// wgmmas of each shape.
            pub wgmmas: BTreeMap<Wgmma, u64>,
            /// Columns of all wgmmas of the CTA that has the most of them.
            pub busiest_cta_columns: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Every count but those of wgmmas, with its field's name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            fn add_sums(&mut self, counts: &EmuCounts) {
                $(self.$name += counts.$name;)*
            }
        }
    };
}

counts! {
    /// CTAs that ran.
    ctas,
    /// Bytes that wgmmas read from shared memory.
    operand_bytes,
    /// FP32 values that threads took over from the tensor core. In an FP8 GEMM each is one promotion: a product and a sum.
    accumulators_read,
    /// TMA loads.
    tma_loads,
    /// Bytes of tensors that TMA loads read, once for all CTAs that get them.
    tma_load_bytes,
    /// TMA loads that land in several CTAs.
    tma_multicasts,
    /// Bytes that TMA loads put into shared memory, zeros outside the tensor included.
    tma_landed_bytes,
    /// TMA stores.
    tma_stores,
    /// Bytes of tensors that TMA stores wrote.
    tma_store_bytes,
    /// Bulk copies from a CTA to another of its cluster.
    cluster_copies,
    /// Bytes of those.
    cluster_copy_bytes,
    /// Loads of global memory by threads.
    global_loads,
    /// Bytes of those.
    global_load_bytes,
    /// Stores to global memory by threads, and additions there.
    global_stores,
    /// Bytes of those.
    global_store_bytes,
    /// Loads of shared memory by threads; each row of an `ldmatrix` is one.
    shared_loads,
    /// Stores to shared memory by threads; each row of an `stmatrix` is one.
    shared_stores,
    /// Wavefronts of those loads and stores.
    shared_wavefronts,
    /// Wavefronts among them that banks cost which several words lie in.
    shared_conflicts,
    /// `ex2`.
    exponentials,
    /// `lg2`.
    logarithms,
    /// Arrivals at mbarriers.
    mbarrier_arrivals,
    /// Waits for mbarriers.
    mbarrier_waits,
    /// Phases that mbarriers completed.
    mbarrier_phases,
    /// Times that a barrier of the threads of a CTA opened.
    named_barriers,
    /// Times that the barrier of a cluster opened.
    cluster_barriers,
    /// Times that the lanes of a warp met at `syncwarp`.
    warp_barriers,
    /// Shuffles of warps.
    shuffles,
    /// Integer reductions of warps.
    reductions,
    /// Elections of a lane.
    elections,
    /// `fence.proxy.async`.
    proxy_fences,
    /// `wgmma.fence`.
    wgmma_fences,
    /// `wgmma.commit_group`.
    wgmma_groups,
}

impl Counts {
    /// Multiplications and additions that the tensor core made, those for rows and columns that no result needs included.
    pub fn tensor_flops(&self) -> u64 {
        self.wgmmas.iter().map(|(wgmma, count)| wgmma.flops() * count).sum()
    }

    /// Columns of all wgmmas: whatever its operands, a wgmma takes the tensor core of an H100 as long as another of as many
    /// columns.
    pub fn columns(&self) -> u64 {
        self.wgmmas.iter().map(|(wgmma, count)| u64::from(wgmma.columns) * count).sum()
    }

    /// Adds those of one launch.
    pub(crate) fn add(&mut self, counts: &EmuCounts) {
        for (operands, by_columns) in OPERANDS.into_iter().zip(&counts.wgmmas) {
            for (columns, &count) in
                (1..).map(|step| step * COLUMN_STEP).zip(by_columns).filter(|(_, n)| **n > 0)
            {
                *self.wgmmas.entry(Wgmma { operands, columns }).or_default() += count;
            }
        }
        self.busiest_cta_columns = self.busiest_cta_columns.max(counts.busiest_cta_columns);
        self.add_sums(counts);
    }
}

/// What the launches of one kernel did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelCounts {
    /// How many there were.
    pub launches: u64,
    /// What they did together.
    pub counts: Counts,
}
