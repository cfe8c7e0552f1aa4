//! Compiles `cuda/` twice: with nvcc to the cubins that `src/` embeds, and with a C++ compiler to the emulated Hopper
//! (and to a CUDA driver that runs on it).
//! What cannot be built is left out, with the reason in the environment of the crate; what fails to build is an error.

#[path = "build/compile.rs"]
mod compile;
#[cfg(feature = "fake-driver")]
#[path = "build/driver.rs"]
mod driver;
#[cfg(feature = "emu")]
#[path = "build/emulator.rs"]
#[cfg_attr(not(feature = "fake-driver"), allow(dead_code))]
mod emulator;
#[path = "build/kernels.rs"]
mod kernels;
#[path = "build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;
#[cfg(feature = "probes")]
#[path = "build/probes.rs"]
mod probes;
#[path = "build/ptxas.rs"]
#[allow(dead_code)]
mod ptxas;
#[path = "build/sources.rs"]
#[allow(dead_code)]
mod sources;
#[path = "src/table/mod.rs"]
#[allow(dead_code)]
mod table;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(feature = "emu")]
use sources::KernelSource;

/// Turns a missing nvcc into an error.
const REQUIRE_CUDA: &str = "DEEPSEEK_KERNELS_REQUIRE_CUDA";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let folder =
        |variable: &str| env::var_os(variable).map(PathBuf::from).ok_or(format!("cargo sets {variable}"));
    let (root, out) = (folder("CARGO_MANIFEST_DIR")?, folder("OUT_DIR")?);
    announce();

    let kernels = sources::kernel_sources();
    #[cfg(feature = "probes")]
    let kernels: Vec<_> = kernels.into_iter().chain(probes::kernel_sources()).collect();
    let kernel_folder = kernels::write_sources(&out, &kernels)?;
    println!("cargo:rustc-env=DK_KERNEL_DIR={}", kernel_folder.display());
    if env::var_os("DOCS_RS").is_some() {
        leave_out("CUBINS", "docs.rs builds documentation only");
        leave_out("EMULATOR", "docs.rs builds documentation only");
        leave_out("DRIVER", "docs.rs builds documentation only");
        return Ok(());
    }

    let cuda = root.join("cuda");
    let mut tasks = Vec::new();
    #[cfg(feature = "emu")]
    let emulator = plan_emulator(&out, &cuda, &kernels, &mut tasks)?;
    #[cfg(feature = "fake-driver")]
    let driver = plan_driver(&out, &cuda, emulator.as_ref(), &mut tasks);
    let nvcc = find_nvcc(&root)?;
    if let Some(nvcc) = &nvcc {
        tasks.extend(kernels::tasks(nvcc, &cuda, &kernel_folder, &kernels));
    }
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    compile::in_parallel(tasks, jobs.unwrap_or(1))?;

    #[cfg(feature = "emu")]
    if let Some(emulator) = emulator {
        #[cfg(feature = "fake-driver")]
        if let Some(driver) = driver {
            driver.link(&emulator)?;
            println!("cargo:rustc-cfg=has_driver");
        }
        emulator.link()?;
        println!("cargo:rustc-cfg=has_emulator");
    }
    #[cfg(not(feature = "emu"))]
    leave_out("EMULATOR", "the feature `emu` is off");
    if let Some(nvcc) = &nvcc {
        kernels::write_table(&out, nvcc, &kernels)?;
        println!("cargo:rustc-cfg=has_cubins");
    }
    Ok(())
}

/// Tells cargo what this script reads and which cfgs it may set.
fn announce() {
    for path in ["build.rs", "build", "cuda", "src/table"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in nvcc::variables().chain([REQUIRE_CUDA, "DOCS_RS"]) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rustc-check-cfg=cfg(has_cubins, has_driver, has_emulator)");
}

fn find_nvcc(root: &Path) -> Result<Option<nvcc::Nvcc>, String> {
    match nvcc::find(root) {
        Ok(nvcc) => Ok(Some(nvcc)),
        Err(reason) if env::var_os(REQUIRE_CUDA).is_some() => {
            Err(format!("{REQUIRE_CUDA} is set, but there is {reason}; `cargo xtask toolkit` fetches one"))
        }
        Err(reason) => {
            println!("cargo:warning=built without GPU kernels: {reason}");
            println!("cargo:rerun-if-env-changed=PATH");
            leave_out("CUBINS", &reason);
            Ok(None)
        }
    }
}

#[cfg(feature = "emu")]
fn plan_emulator(
    out: &Path,
    cuda: &Path,
    kernels: &[KernelSource],
    tasks: &mut Vec<compile::Task>,
) -> Result<Option<emulator::Emulator>, String> {
    match emulator::Emulator::find(out) {
        Ok(mut emulator) => {
            tasks.extend(emulator.tasks(cuda, kernels)?);
            Ok(Some(emulator))
        }
        Err(reason) => {
            println!("cargo:warning=built without the emulated Hopper: {reason}");
            leave_out("EMULATOR", &reason);
            Ok(None)
        }
    }
}

#[cfg(feature = "fake-driver")]
fn plan_driver(
    out: &Path,
    cuda: &Path,
    emulator: Option<&emulator::Emulator>,
    tasks: &mut Vec<compile::Task>,
) -> Option<driver::Driver> {
    let planned = emulator
        .ok_or("there is no emulated Hopper to run its kernels".to_owned())
        .and_then(|emulator| driver::Driver::plan(out, cuda, emulator));
    match planned {
        Ok((driver, own)) => {
            tasks.extend(own);
            Some(driver)
        }
        Err(reason) => {
            leave_out("DRIVER", &reason);
            None
        }
    }
}

/// The crate returns the reason in its errors.
fn leave_out(what: &str, reason: &str) {
    println!("cargo:rustc-env=DK_NO_{what}_REASON={}", reason.replace('\n', "; "));
}
