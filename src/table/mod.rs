//! The table of compiled kernels, a file per family. `build.rs` includes this same module: nvcc and the host compiler build
//! from one list, which also says the few lines of C++ that instantiate each entry.

use std::fmt::Write as _;

pub mod gemm;
pub mod mla;
pub mod moe;
#[cfg(feature = "probes")]
pub mod probes;
pub mod quant;
pub mod router;

/// Most experts of a grouped GEMM: its table of segments lies in shared memory.
pub const MAX_EXPERTS: u32 = 1024;

/// Shared memory a CTA can use on compute capability 9.0: 227 KiB.
pub const MAX_SMEM_BYTES: u32 = 227 * 1024;

/// Elements of a row that a thread moves at once: 16 bytes of BF16.
pub const PIECE: u32 = 8;

/// Threads of a warp.
const WARP: u32 = 32;

/// The name of a constant in C++, and its value.
type Constant = (&'static str, u32);

/// What the kernels that move pieces take for granted, as the host does.
const PIECES: &[Constant] = &[("kPieceElements", PIECE)];
/// The same of kernels that have room for every expert.
const EXPERTS: &[Constant] = &[("MAX_EXPERTS", MAX_EXPERTS)];

/// One kernel that has a single configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedKernel {
    /// Folder in `cuda/`, and C++ namespace.
    pub family: &'static str,
    /// Name of the kernel, of its function and of its file in the folder.
    pub name: &'static str,
    /// The file it is compiled from, and the function there.
    source: &'static str,
    /// Name of its parameter struct in the folder's `params.h`.
    pub params: &'static str,
    /// Threads per CTA: `kThreads` of the function's `Config`.
    pub threads: u32,
    /// CTAs per cluster: `kCluster` where there are several.
    cluster: u32,
    /// Dynamic shared memory per CTA: the size of `storage`.
    pub smem_bytes: u32,
    /// The struct that lies there, a template over `Config`; empty where there is none.
    storage: &'static str,
    /// What else `Config` says.
    constants: &'static [Constant],
    /// Constants of the sources that the host has too; the generated C++ asserts that they are equal.
    agreed: &'static [Constant],
}

impl FixedKernel {
    const fn new(
        family: &'static str,
        name: &'static str,
        params: &'static str,
        threads: u32,
        agreed: &'static [Constant],
    ) -> Self {
        Self {
            family,
            name,
            source: name,
            params,
            threads,
            cluster: 1,
            smem_bytes: 0,
            storage: "",
            constants: &[],
            agreed,
        }
    }

    const fn with_storage(self, storage: &'static str, smem_bytes: u32) -> Self {
        Self { storage, smem_bytes, ..self }
    }

    /// Another configuration of the function of kernel `source`, in its file.
    const fn of(self, source: &'static str) -> Self {
        Self { source, ..self }
    }

    const fn with_constants(self, constants: &'static [Constant]) -> Self {
        Self { constants, ..self }
    }

    const fn with_cluster(self, cluster: u32) -> Self {
        Self { cluster, ..self }
    }

    fn kernel(self) -> Kernel {
        let Self { family, name, source, params, threads, cluster, smem_bytes, storage, constants, agreed } =
            self;
        let of_cluster = if cluster > 1 { &[("kCluster", cluster)][..] } else { &[] };
        let constants = [&[("kThreads", threads)], of_cluster, constants].concat();
        let members = constants.iter().map(|&(name, value)| ("uint32_t", name, value.to_string()));
        let mut code = config("Config", "", members) + &agreement(agreed);
        if !storage.is_empty() {
            code.push_str(&agreement(&[(&format!("sizeof({family}::{storage}<Config>)"), smem_bytes)]));
        }
        let function = format!("{family}::{source}_kernel<Config>");
        let entry = Entry { name, function: &function, params, threads, cluster };
        entry.kernel(family, &format!("{family}/{source}.cuh"), &code, smem_bytes)
    }
}

/// The C++ struct `name` of constants: type, name, value. It stands in a namespace of its file, or the host's linker would
/// take a function of every file's `Config` for the same one.
fn config<'a>(
    name: &str,
    base: &str,
    members: impl IntoIterator<Item = (&'a str, &'a str, String)>,
) -> String {
    let mut code = format!("namespace {{\nstruct {name}{base} {{\n");
    for (kind, constant, value) in members {
        let _ = writeln!(code, "  static constexpr {kind} {constant} = {value};");
    }
    code + "};\n}  // namespace\n"
}

/// Asserts in C++ that constants of the sources are what the host takes them for.
fn agreement(constants: &[(&str, u32)]) -> String {
    constants.iter().map(|(name, value)| format!("static_assert({name} == {value});\n")).collect()
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
    /// The file of its source, below `cuda/`.
    pub header: String,
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
        let header = header.to_owned();
        Kernel { name: name.to_owned(), family, threads, cluster, smem_bytes, header, source }
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
