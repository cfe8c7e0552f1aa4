//! What the packages for the registry hold is enough: unpacked outside the repository, the library is built, kernels for the
//! GPU included, and used, as its document says.

mod readme;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use build_support::nvcc;

use crate::process::{cargo, run};

/// The packages, each after those it needs.
const PACKAGES: [&str; 2] = ["deepseek-kernels-build-support", "deepseek-kernels"];

/// The program that uses the library: it knows no other crate of the workspace.
const PROGRAM: &str = "examples/fp8_linear.rs";

/// What the registry shows.
const README: &str = "src/README.md";

/// The sizes in its first example, and the numbers of rows that it is tried with instead.
const SIZES: &str = "let (m, n, k) = (3, 16, 256);";
const ROWS: [&str; 12] = ["0", "1", "2", "3", "4", "5", "7", "64", "127", "128", "129", "133"];

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
    let library = elsewhere.path().join("deepseek-kernels");
    readme::check(&library, README)?;
    let user = elsewhere.path().join("user");
    fs::create_dir_all(user.join("src/bin"))?;
    fs::write(user.join("Cargo.toml"), manifest(version))?;
    // The versions that everything else here is tried with.
    fs::copy(root.join("Cargo.lock"), user.join("Cargo.lock"))?;
    fs::copy(root.join(PROGRAM), user.join("src/main.rs")).context(PROGRAM)?;
    let documents = [root.join("README.md"), library.join(README)].map(fs::read_to_string);
    fs::write(user.join("src/bin/example.rs"), of_any_m(documents)?)?;
    // The unpacked library has no toolkit of its own.
    let nvcc = nvcc::find(root).map_err(|reason| anyhow!(reason))?;
    let program = |arguments: &[&str]| {
        let mut program = cargo(&user);
        program.args(["run", "--quiet"]).args(arguments).env_remove("CARGO_TARGET_DIR");
        run(program.env("NVCC", &nvcc.path).env("DEEPSEEK_KERNELS_REQUIRE_CUDA", "1"))
    };
    program(&["--bin", "user"])?;
    ROWS.iter().try_for_each(|m| program(&["--bin", "example", m]))
}

/// The first example, which the repository and the package have in common, for the m of the command line.
fn of_any_m(documents: [std::io::Result<String>; 2]) -> Result<String> {
    let [repository, package] = documents;
    let (repository, package) = (repository?, package?);
    let example = readme::example(&package).context("the package's document has no example")?;
    ensure!(
        readme::example(&repository) == Some(example),
        "README.md and the package's have different examples"
    );
    let (before, after) = example.split_once(SIZES).context("the example has other sizes")?;
    Ok(format!(
        "{before}let m: usize = std::env::args().nth(1).unwrap().parse().unwrap();\n    let (n, k) = (16, 256);{after}"
    ))
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
