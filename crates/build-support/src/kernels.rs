//! The kernels that a build is made of.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use crate::write;

/// Name of the list of kernels that a build leaves beside their cubins.
pub const KERNEL_LIST: &str = "kernels.json";

/// One kernel: a translation unit that both compilers read, and how it is launched.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name of the function and of its files.
    pub name: String,
    /// The family of operations, or `hopper` for test kernels.
    pub family: &'static str,
    /// Threads per CTA.
    pub threads: u32,
    /// CTAs per cluster.
    pub cluster: u32,
    /// Dynamic shared memory of a CTA, in bytes.
    pub smem_bytes: u32,
    /// C++ that includes the kernel's header and instantiates it.
    pub source: String,
}

/// Writes the list of the kernels and `NAME.cu` of each to `folder`.
pub(crate) fn write_all(folder: &Path, kernels: &[Kernel]) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for kernel in kernels {
        write(&folder.join(&kernel.name).with_extension("cu"), &kernel.source)?;
    }
    write(&folder.join(KERNEL_LIST), &list(kernels))
}

/// The kernels as JSON; names are C identifiers, which need no escapes.
fn list(kernels: &[Kernel]) -> String {
    let entry = |kernel: &Kernel| {
        let Kernel { name, family, threads, cluster, smem_bytes, .. } = kernel;
        format!(
            "  {{\"name\": \"{name}\", \"family\": \"{family}\", \"threads\": {threads}, \"cluster\": {cluster}, \
             \"smem_bytes\": {smem_bytes}}}"
        )
    };
    format!("[\n{}\n]\n", kernels.iter().map(entry).collect::<Vec<_>>().join(",\n"))
}

/// The C++ file with the list that the emulator looks kernels up in, ended by null.
pub fn emulator_table(names: &[impl Display]) -> String {
    let declarations: String =
        names.iter().map(|name| format!("extern const emu::Kernel {name};\n")).collect();
    let entries: String = names.iter().map(|name| format!("&{name}, ")).collect();
    format!(
        "#include \"hopper/emulated/machine/machine.h\"\n\
         extern \"C\" {{\n\
         {declarations}\
         const emu::Kernel* const emu_kernels[] = {{{entries}nullptr}};\n\
         }}\n"
    )
}
