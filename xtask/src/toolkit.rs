//! Fetches pinned packages with pip into the git-ignored folder `toolkit/`. Nothing of the system changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use build_support::nvcc;

use crate::process;

/// What pip is told to install, and the one folder of it that is kept.
struct Package {
    requirements: &'static str,
    folder: &'static str,
}

const NVCC: Package = Package { requirements: include_str!("../toolkit.txt"), folder: "nvidia" };
#[cfg(not(feature = "bindings"))]
const LIBCLANG: Package = Package { requirements: include_str!("../libclang.txt"), folder: "clang" };

/// Fetches nvcc, ptxas and the readers of SASS.
pub fn fetch_nvcc(root: &Path) -> Result<()> {
    fetch(&root.join("toolkit"), &NVCC)?;
    let compiler = root.join(nvcc::FETCHED).join("bin/nvcc");
    let version = process::read(Command::new(&compiler).arg("--version"))?;
    println!("{}: {}", compiler.display(), version.lines().rev().nth(1).unwrap_or_default());
    // Cargo cannot watch a file that is not there: this makes it ask build.rs again.
    File::open(root.join("build.rs"))?.set_modified(SystemTime::now()).context("build.rs")
}

/// Fetches libclang and returns its folder.
#[cfg(not(feature = "bindings"))]
pub fn fetch_libclang(root: &Path) -> Result<PathBuf> {
    Ok(fetch(&root.join("toolkit"), &LIBCLANG)?.join("native"))
}

/// Returns `toolkit/FOLDER`, which is either complete and as required, or not there.
fn fetch(toolkit: &Path, package: &Package) -> Result<PathBuf> {
    let folder = toolkit.join(package.folder);
    if fetched_as(&folder).is_some_and(|requirements| requirements == package.requirements) {
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the pinned packages are for x86-64 Linux: install CUDA 13 yourself and set CUDA_HOME");
    }

    let partial = toolkit.join(format!(".partial-{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    let fetched = install(&partial, package).and_then(|new| {
        if folder.exists() {
            fs::rename(&folder, partial.join("old"))?;
        }
        fs::rename(new, &folder).with_context(|| format!("cannot move to {}", folder.display()))
    });
    fs::remove_dir_all(&partial)?;
    fetched.map(|()| folder)
}

/// Installs below `partial` and returns the folder to keep.
fn install(partial: &Path, package: &Package) -> Result<PathBuf> {
    let list = partial.join("requirements.txt");
    fs::write(&list, package.requirements)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.args(["--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes"]);
    pip.arg("--target").arg(partial.join("tree")).arg("--requirement").arg(&list);
    println!("fetching with pip:");
    for line in package.requirements.lines().filter(|line| !line.starts_with('#')) {
        println!("  {}", line.split(' ').next().unwrap_or(line));
    }
    process::run(&mut pip).context("pip (python3 with pip is needed: `apt install python3-pip`)")?;

    let folder = partial.join("tree").join(package.folder);
    fs::write(stamp(&folder), package.requirements)
        .with_context(|| format!("pip made no {}", folder.display()))?;
    Ok(folder)
}

fn stamp(folder: &Path) -> PathBuf {
    folder.join("requirements.txt")
}

/// The requirements that `folder` was fetched with.
fn fetched_as(folder: &Path) -> Option<String> {
    fs::read_to_string(stamp(folder)).ok()
}
