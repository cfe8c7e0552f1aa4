//! What the packages for the registry hold is enough: unpacked outside the repository, the library is built, kernels for the
//! GPU included, and used.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use build_support::nvcc;

use crate::process::{cargo, run};

/// The packages, each after those it needs.
const PACKAGES: [&str; 2] = ["deepseek-kernels-build-support", "deepseek-kernels"];

/// The program that uses the library: it knows no other crate of the workspace.
const PROGRAM: &str = "examples/fp8_linear.rs";

/// Packs, unpacks elsewhere, and runs a program of a new crate that depends on the unpacked library.
pub fn check(root: &Path) -> Result<()> {
    let mut package = cargo(root);
    package.args(["package", "--quiet", "--allow-dirty", "--no-verify"]);
    package.args(PACKAGES.map(|name| format!("--package={name}")));
    run(package.env_remove("CARGO_TARGET_DIR"))?;

    let elsewhere = tempfile::tempdir()?;
    let version = env!("CARGO_PKG_VERSION");
    for name in PACKAGES {
        let archive = root.join(format!("target/package/{name}-{version}.crate"));
        run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(elsewhere.path()))?;
        fs::rename(elsewhere.path().join(format!("{name}-{version}")), elsewhere.path().join(name))?;
    }
    let user = elsewhere.path().join("user");
    fs::create_dir_all(user.join("src"))?;
    fs::write(user.join("Cargo.toml"), manifest(version))?;
    // The versions that everything else here is tried with.
    fs::copy(root.join("Cargo.lock"), user.join("Cargo.lock"))?;
    fs::copy(root.join(PROGRAM), user.join("src/main.rs")).context(PROGRAM)?;
    // The unpacked library has no toolkit of its own.
    let nvcc = nvcc::find(root).map_err(|reason| anyhow!(reason))?;
    let mut program = cargo(&user);
    program.args(["run", "--quiet"]).env_remove("CARGO_TARGET_DIR");
    run(program.env("NVCC", nvcc.path).env("DEEPSEEK_KERNELS_REQUIRE_CUDA", "1"))
}

/// Of a crate whose packages come from the folders beside it instead of the registry.
fn manifest(version: &str) -> String {
    let patches = PACKAGES.map(|name| format!("{name} = {{ path = \"../{name}\" }}\n")).concat();
    format!(
        "[package]\n\
         name = \"user\"\n\
         edition = \"2024\"\n\n\
         [dependencies]\n\
         deepseek-kernels = \"={version}\"\n\n\
         [profile.dev]\n\
         opt-level = 2\n\n\
         [patch.crates-io]\n\
         {patches}"
    )
}
