//! Everything that must hold before a change is taken: what CI runs, and a newcomer too.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use build_support::nvcc;

use crate::FEATURES;
use crate::process::{cargo, read, run};
use crate::{bindings, bundle, gpu_path, lint, package, rehearsal, resources, toolkit};

type Step = (&'static str, fn(&Path) -> Result<()>);

/// Cheap steps first; the later ones reuse what the earlier ones built.
const STEPS: [Step; 15] = [
    ("toolkit", find_or_fetch_nvcc),
    ("format", |root| run(cargo(root).args(["fmt", "--all", "--check"]))),
    ("lint", lint::run),
    ("peers", test_peers),
    ("bindings", |root| bindings::regenerate(root, true)),
    ("clippy", clippy),
    ("clippy without CUDA and C++", clippy_bare),
    ("resources", |root| resources::check(root, false)),
    ("tests", |root| run(cargo(root).args(["test", "--workspace", FEATURES]))),
    ("gpu path", gpu_path::check),
    ("bundle", bundle::make),
    ("rehearsal", rehearsal::run),
    ("package", package::check),
    ("documentation", document),
    ("sanitizers", sanitize),
];

/// Runs the steps up to the first that fails.
pub fn run_all(root: &Path) -> Result<()> {
    let start = Instant::now();
    let mut times = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name}");
        let begin = Instant::now();
        let outcome = step(root);
        times.push((name, begin.elapsed()));
        outcome.with_context(|| format!("FAILED after {}: {name}", seconds(start.elapsed())))?;
    }
    println!();
    for (name, time) in &times {
        println!("{:>8}  {name}", seconds(*time));
    }
    println!("PASSED in {}: {} steps", seconds(start.elapsed()), times.len());
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn find_or_fetch_nvcc(root: &Path) -> Result<()> {
    if nvcc::find(root).is_err() {
        toolkit::fetch_nvcc(root)?;
    }
    let found = nvcc::find(root).map_err(|reason| anyhow!(reason))?;
    println!("{}", found.path.display());
    Ok(())
}

/// What measures other libraries, without them: where PyTorch is not there either, less of it.
fn test_peers(root: &Path) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-B", "-W", "error", "-m", "unittest", "discover", "-s", "benches/peers/tests"]);
    run(python.args(["-t", "benches/peers"]).current_dir(root))
}

fn clippy(root: &Path) -> Result<()> {
    let mut command = cargo(root);
    run(command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        FEATURES,
        "--",
        "--deny=warnings",
    ]))
}

/// As docs.rs builds the crate, which is also the crate on a machine with neither compiler.
fn clippy_bare(root: &Path) -> Result<()> {
    let mut command = cargo(root);
    command.args([
        "clippy",
        "--package=deepseek-kernels",
        "--lib",
        "--no-default-features",
        "--features=cuda-12080",
    ]);
    run(command.args(["--", "--deny=warnings"]).env("DOCS_RS", "1"))
}

fn document(root: &Path) -> Result<()> {
    run(cargo(root)
        .args(["doc", "--workspace", "--no-deps", FEATURES])
        .env("RUSTDOCFLAGS", "--deny=warnings"))
}

/// What runs under the sanitizers: every family's `smoke`, which launches every kernel, and the example.
const SANITIZED: [&str; 2] = ["every_smoke_case_passes", "the_step_agrees"];

/// The operations once more, on an emulator and kernels built with ASan and UBSan. Last, because it leaves that build
/// behind.
fn sanitize(root: &Path) -> Result<()> {
    let tests = || {
        let mut command = cargo(root);
        command.args([
            "test",
            "--package=deepseek-kernels",
            FEATURES,
            "--test=cases",
            "--example=decode_step",
        ]);
        command.env("DEEPSEEK_KERNELS_SANITIZE", "1").arg("--");
        command
    };
    let list = read(tests().args(["--list", "--format=terse"]))?;
    for filter in SANITIZED {
        let matches = list.lines().any(|line| line.ends_with(": test") && line.contains(filter));
        ensure!(matches, "no test is called {filter}");
    }
    run(tests().args(SANITIZED))
}
