//! The table of compiled kernels, a file per family. `build.rs` includes this same module: nvcc and the host compiler build
//! from one list.

pub mod gemm;
pub mod mla;
pub mod moe;
#[cfg(feature = "probes")]
pub mod probes;
pub mod quant;
pub mod router;

/// Most experts of a grouped GEMM: its table of segments lies in shared memory.
pub const MAX_EXPERTS: u32 = 512;

/// Shared memory a CTA can use on compute capability 9.0: 227 KiB.
pub const MAX_SMEM_BYTES: u32 = 227 * 1024;

/// One kernel that has a single configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedKernel {
    /// Folder in `cuda/`, and C++ namespace.
    pub family: &'static str,
    /// Name of the kernel, of its function and of its file in the folder.
    pub name: &'static str,
    /// Name of its parameter struct in the folder's `params.h`.
    pub params: &'static str,
    /// Threads per CTA.
    pub threads: u32,
    /// Dynamic shared memory per CTA.
    pub smem_bytes: u32,
}

/// Every kernel that has a single configuration.
pub fn fixed_kernels() -> impl Iterator<Item = &'static FixedKernel> {
    [quant::KERNELS, moe::KERNELS, router::KERNELS, mla::KERNELS].into_iter().flatten()
}

/// Name, threads per CTA and dynamic shared memory of every kernel.
pub fn launch_sizes() -> impl Iterator<Item = (String, u32, u32)> {
    let gemms = gemm::GEMM_INSTANCES.iter().chain(gemm::GROUPED_GEMM_INSTANCES);
    let gemms = gemms.map(|instance| (instance.name(), instance.threads(), instance.smem_bytes()));
    let attention = mla::MLA_INSTANCES.iter();
    let attention = attention.map(|instance| (instance.name(), instance.threads(), instance.smem_bytes()));
    let fixed = fixed_kernels();
    gemms
        .chain(attention)
        .chain(fixed.map(|kernel| (kernel.name.to_owned(), kernel.threads, kernel.smem_bytes)))
}
