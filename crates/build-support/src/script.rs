//! The build script itself: what is there is built, what is not is left out with its reason, what fails is an error.

use std::env;
use std::path::{Path, PathBuf};

#[cfg(feature = "emulator")]
use crate::host::Host;
use crate::{Kernel, compile, cubins, kernels, leave_out, nvcc};

/// Turns a missing nvcc into an error.
const REQUIRE_CUDA: &str = "DEEPSEEK_KERNELS_REQUIRE_CUDA";

/// Builds the crate whose build script calls this. The crate gets `DK_KERNEL_DIR`, the cfgs `has_cubins`, `has_emulator`
/// and `has_driver`, and for what is left out the reason in `DK_NO_CUBINS_REASON`, ..., which it returns in its errors.
///
/// It reads what cargo sets for build scripts, the feature `fake-driver` among it, `DEEPSEEK_KERNELS_REQUIRE_CUDA` (no nvcc
/// is an error), `DEEPSEEK_KERNELS_SANITIZE` (an emulator for tests), `DOCS_RS` (nothing is built), the variables that say
/// where a CUDA toolkit is, and those of `cc`.
///
/// # Errors
///
/// What cargo has not set, what no file can be written for, and what a compiler rejects.
pub fn build(kernels: &[Kernel]) -> Result<(), String> {
    let (root, out) = (folder("CARGO_MANIFEST_DIR")?, folder("OUT_DIR")?);
    announce();
    let kernel_folder = out.join("kernels");
    kernels::write_all(&kernel_folder, kernels)?;
    println!("cargo:rustc-env=DK_KERNEL_DIR={}", kernel_folder.display());
    if env::var_os("DOCS_RS").is_some() {
        for part in ["CUBINS", "EMULATOR", "DRIVER"] {
            leave_out(part, "docs.rs builds documentation only");
        }
        return Ok(());
    }

    let cuda = root.join("cuda");
    let mut tasks = Vec::new();
    #[cfg(feature = "emulator")]
    let host = Host::plan(&out, &cuda, kernels, &mut tasks)?;
    let nvcc = find_nvcc(&root)?;
    if let Some(nvcc) = &nvcc {
        let names = kernels.iter().map(|kernel| kernel.name.as_str());
        tasks.extend(cubins::tasks(nvcc, &cuda, &kernel_folder, names));
    }
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    compile::in_parallel(tasks, jobs.unwrap_or(1))?;

    #[cfg(feature = "emulator")]
    host.link()?;
    #[cfg(not(feature = "emulator"))]
    leave_out("EMULATOR", "the feature `emu` is off");
    if let Some(nvcc) = &nvcc {
        cubins::write_table(&out, nvcc, kernels)?;
        println!("cargo:rustc-cfg=has_cubins");
    }
    Ok(())
}

fn folder(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable).map(PathBuf::from).ok_or(format!("cargo sets {variable} for build scripts"))
}

/// Tells cargo what a build reads and which cfgs it may set.
fn announce() {
    for path in ["build.rs", "cuda", "src/table"] {
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
        Err(reason) if env::var_os(REQUIRE_CUDA).is_some() => Err(format!(
            "{REQUIRE_CUDA} is set, but there is {reason}; in the repository \
                 `cargo xtask toolkit` fetches one"
        )),
        Err(reason) => {
            println!("cargo:warning=built without GPU kernels: {reason}");
            println!("cargo:rerun-if-env-changed=PATH");
            leave_out("CUBINS", &reason);
            Ok(None)
        }
    }
}
