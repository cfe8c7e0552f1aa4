//! The table of compiled kernels, a file per family. `build.rs` includes this same module: nvcc and the host compiler build
//! from one list, which also says the few lines of C++ that instantiate each entry.

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

impl FixedKernel {
    fn kernel(self) -> Kernel {
        let Self { family, name, params, threads, smem_bytes } = self;
        let code = format!(
            "static_assert({family}::{name}_threads == {threads} && {family}::{name}_smem_bytes == {smem_bytes});\n"
        );
        let entry =
            Entry { name, function: &format!("{family}::{name}_kernel"), params, threads, cluster: 1 };
        entry.kernel(family, &format!("{family}/{name}.cuh"), &code, smem_bytes)
    }
}

/// A kernel as it is compiled and launched.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name of the GPU's function.
    pub name: String,
    /// The family of operations, or `hopper` for test kernels.
    pub family: &'static str,
    /// Threads per CTA.
    pub threads: u32,
    /// CTAs per cluster.
    pub cluster: u32,
    /// Dynamic shared memory per CTA.
    pub smem_bytes: u32,
    /// The translation unit that instantiates it.
    pub source: String,
}

/// What the macro `PTX_KERNEL` makes an entry point of.
struct Entry<'a> {
    name: &'a str,
    function: &'a str,
    params: &'a str,
    threads: u32,
    cluster: u32,
}

impl Entry<'_> {
    /// `code` stands between the header, a path below `cuda/`, and the entry point.
    fn kernel(&self, family: &'static str, header: &str, code: &str, smem_bytes: u32) -> Kernel {
        let Self { name, function, params, threads, cluster } = *self;
        let source = format!(
            "#include \"{header}\"\n{code}PTX_KERNEL({name}, {function}, {params}, {threads}, {cluster})\n"
        );
        Kernel { name: name.to_owned(), family, threads, cluster, smem_bytes, source }
    }
}

/// Every kernel of the families.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    gemm::kernels()
        .chain(quant::kernels())
        .chain(router::kernels())
        .chain(moe::kernels())
        .chain(mla::kernels())
}
