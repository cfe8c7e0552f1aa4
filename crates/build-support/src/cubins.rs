//! The kernels as Hopper cubins.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::compile::{self, Task};
use crate::nvcc::{self, Nvcc};
use crate::{Kernel, ptxas, write};

/// Only the long form of `-gencode` makes nvcc target sm_90a and nothing else.
const TARGET: &str = "-gencode=arch=compute_90a,code=sm_90a";

/// `-fmad=false`: a product and a sum written apart are rounded twice, as on the emulator.
const COMPILE_FLAGS: [&str; 6] =
    ["-ptx", "-O3", "-std=c++20", "-fmad=false", "--expt-relaxed-constexpr", "-lineinfo"];
const ASSEMBLE_FLAGS: [&str; 5] = ["-cubin", "-O3", "-lineinfo", "-Xptxas", "-v"];

/// One task per name of a kernel: `folder/NAME.cu` to `NAME.ptx`, `NAME.cubin` and ptxas's report, `NAME.ptxas`.
pub fn tasks<'n>(
    nvcc: &Nvcc,
    cuda: &Path,
    folder: &Path,
    names: impl IntoIterator<Item = &'n str>,
) -> Vec<Task> {
    let task = |name| {
        let (nvcc, cuda, file) = (nvcc.clone(), cuda.to_owned(), folder.join(name));
        Box::new(move || compile(&nvcc, &cuda, &file)) as Task
    };
    names.into_iter().map(task).collect()
}

fn compile(nvcc: &Nvcc, cuda: &Path, file: &Path) -> Result<(), String> {
    let with = |extension| file.with_extension(extension);
    let (ptx, cubin, depfile) = (with("ptx"), with("cubin"), with("nvcc.d"));

    let mut compile = Command::new(&nvcc.path);
    compile.arg(TARGET).args(COMPILE_FLAGS).arg("-I").arg(cuda).arg("-I").arg(cuda.join("hopper/sm90"));
    compile.arg("-MMD").arg("-MF").arg(&depfile).arg(with("cu")).arg("-o").arg(&ptx);
    let mut assemble = Command::new(&nvcc.path);
    assemble.arg(TARGET).args(ASSEMBLE_FLAGS).arg(&ptx).arg("-o").arg(&cubin);

    let environment: Vec<_> = nvcc::variables().map(std::env::var_os).collect();
    let commands = [&compile, &assemble].map(compile::line);
    let recipe = format!("{}{environment:?}{commands:?}", nvcc.version);
    compile::unless_made(&cubin, &depfile, &recipe, || {
        compile::run(&mut compile)?;
        let report = compile::run(&mut assemble)?;
        write(&with("ptxas"), &report)?;
        ptxas::refuse_slow(&report)
            .map_err(|text| format!("{}: slow code is an error here\n{text}", file.display()))
    })
}

/// Writes `cubins.rs`: the table of names and images, each aligned as the driver wants it.
pub(crate) fn write_table(out: &Path, nvcc: &Nvcc, kernels: &[Kernel]) -> Result<(), String> {
    let mut text = String::from(
        "#[repr(C, align(16))]\n\
         struct Image<T: ?Sized>(T);\n\n\
         /// Every kernel's name and cubin.\n\
         pub static CUBINS: &[(&str, &[u8])] = &[\n",
    );
    for Kernel { name, .. } in kernels {
        let _ = writeln!(text, "    (\"{name}\", &Image(*include_bytes!(\"kernels/{name}.cubin\")).0),");
    }
    let major = nvcc.major();
    let _ = writeln!(
        text,
        "];\n\n/// The CUDA whose drivers load them.\nconst CUBINS_CUDA_MAJOR: i32 = {major};"
    );
    write(&out.join("cubins.rs"), &text)
}
