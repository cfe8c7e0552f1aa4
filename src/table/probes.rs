//! The table of test kernels in `cuda/hopper/probes`.

use std::fmt::Write as _;

use super::{Entry, Kernel, agreement, gemm};

/// Not of any family of operations.
const FAMILY: &str = "hopper";

/// Name of the struct that all test kernels take.
pub const PARAMS: &str = "ProbeParams";

/// A test kernel: `probe_NAME` in `cuda/hopper/probes/NAME.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeKernel {
    /// Name of the file.
    pub name: &'static str,
    /// Threads per CTA.
    pub threads: u32,
    /// CTAs per cluster.
    pub cluster: u32,
    /// Dynamic shared memory per CTA; what a kernel may use without asking for more: at most 48 KiB.
    pub smem_bytes: u32,
}

impl ProbeKernel {
    fn kernel(&self) -> Kernel {
        let Self { name, threads, cluster, smem_bytes } = *self;
        let own = || format!("hopper/probes/{name}.cuh");
        let (header, code) = match *self {
            STORAGE => ("gemm/storage_probe.cuh".to_owned(), storage_kernel()),
            PRODUCT => (own(), agreement(&[("sizeof(ProbeProductStorage)", smem_bytes)])),
            _ => (own(), String::new()),
        };
        let entry = Entry {
            name: &format!("probe_{name}"),
            function: &format!("probe_{name}_kernel"),
            params: PARAMS,
            threads,
            cluster,
        };
        entry.kernel(FAMILY, &header, &code, smem_bytes)
    }
}

/// The probe that looks at the storage of every GEMM.
fn storage_kernel() -> String {
    let mut configs = String::new();
    let mut calls = String::new();
    for (index, instance) in gemm::GEMM_INSTANCES.iter().enumerate() {
        configs.push_str(&instance.config(&format!("Config{index}")));
        let _ = writeln!(calls, "  gemm::write_storage<Config{index}>(params, {index});");
    }
    format!(
        "{configs}PTX_DEVICE void probe_storage_kernel(const ProbeParams& params) {{\n  enter_grid();\n{calls}}}\n"
    )
}

const fn probe(name: &'static str, threads: u32, cluster: u32, smem_bytes: u32) -> ProbeKernel {
    ProbeKernel { name, threads, cluster, smem_bytes }
}

/// Conversions and arithmetic.
pub const CONVERT: ProbeKernel = probe("convert", 128, 1, 0);
/// Cluster barrier, remote arrivals.
pub const CLUSTER: ProbeKernel = probe("cluster", 64, 2, 784);
/// Launches that follow each other.
pub const GRIDS: ProbeKernel = probe("grids", 64, 1, 0);
/// Global memory.
pub const GMEM: ProbeKernel = probe("gmem", 64, 1, 0);
/// The functions of `cuda/hopper/tile`.
pub const LAYOUT: ProbeKernel = probe("layout", 128, 1, 0);
/// Arrivals and phases.
pub const MBARRIER: ProbeKernel = probe("mbarrier", 64, 1, 152);
/// Arrivals and bytes.
pub const MBARRIER_BYTES: ProbeKernel = probe("mbarrier_bytes", 64, 1, 4 * 1024 + 16);
/// A product by a pair of CTAs: two stages of A and B, and D, in tiles of 8 KiB; barriers.
pub const PRODUCT: ProbeKernel = probe("product", 160, 2, (2 * 2 + 1) * 8 * 1024 + 1024);
/// Reductions over a warp, sums in memory, wide accesses of shared memory.
pub const REDUCE: ProbeKernel = probe("reduce", 64, 1, 64 * 16);
/// `setmaxnreg`.
pub const REGISTERS: ProbeKernel = probe("registers", 384, 1, 0);
/// Shared memory, `stmatrix` and `ldmatrix`.
pub const SMEM: ProbeKernel = probe("smem", 32, 1, 4096);
/// Offsets in the GEMM's shared memory.
pub const STORAGE: ProbeKernel = probe("storage", 32, 1, 0);
/// Special registers, warp collectives, barriers of a CTA.
pub const SYNC: ProbeKernel = probe("sync", 128, 1, 1024);
/// Copies from one CTA's shared memory to another's.
pub const TMA_COPY: ProbeKernel = probe("tma_copy", 64, 2, 16 * 1024);
/// Loads.
pub const TMA_LOAD: ProbeKernel = probe("tma_load", 64, 1, 16 * 1024);
/// Multicast loads.
pub const TMA_MULTICAST: ProbeKernel = probe("tma_multicast", 64, 2, 16 * 1024);
/// Stores.
pub const TMA_STORE: ProbeKernel = probe("tma_store", 64, 1, 16 * 1024);
/// The tensor core: A [64, 128 bytes], B in 38 KiB, a barrier.
pub const WGMMA: ProbeKernel = probe("wgmma", 128, 1, 46 * 1024 + 8);

/// Every test kernel.
pub const PROBES: &[ProbeKernel] = &[
    CONVERT,
    CLUSTER,
    GMEM,
    GRIDS,
    LAYOUT,
    MBARRIER,
    MBARRIER_BYTES,
    PRODUCT,
    REDUCE,
    REGISTERS,
    SMEM,
    STORAGE,
    SYNC,
    TMA_COPY,
    TMA_LOAD,
    TMA_MULTICAST,
    TMA_STORE,
    WGMMA,
];

/// Every test kernel, as it is compiled.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    PROBES.iter().map(ProbeKernel::kernel)
}
