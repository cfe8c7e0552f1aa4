//! Compiles `cuda/` twice: with nvcc to the cubins that `src/` embeds, and with a C++ compiler to the emulated Hopper
//! (and to a CUDA driver that runs on it).
//! What cannot be built is left out, with the reason in the environment of the crate; what fails to build is an error.

#[path = "src/table/mod.rs"]
#[allow(dead_code, reason = "the library uses the rest")]
mod table;

use std::process::ExitCode;

use build_support::Kernel;

fn main() -> ExitCode {
    let kernels = table::kernels();
    #[cfg(feature = "probes")]
    let kernels = kernels.chain(table::probes::kernels());
    let kernels: Vec<Kernel> = kernels.map(kernel).collect();
    match build_support::build(&kernels) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn kernel(row: table::Kernel) -> Kernel {
    let table::Kernel { name, family, threads, cluster, smem_bytes, source, .. } = row;
    Kernel { name, family, threads, cluster, smem_bytes, source }
}
