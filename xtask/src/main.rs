//! Chores of developers and of people who carry the crate to a GPU: `cargo xtask help`.

mod bindings;
mod build_output;
mod bundle;
mod gpu_path;
mod lint;
mod mutants;
mod package;
mod process;
mod rehearsal;
mod resources;
mod test;
mod toolkit;
mod variants;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Every chore builds with the same features, so that nothing is compiled twice.
const FEATURES: &str = "--features=deepseek-kernels/probes";

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores around the crate")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Fetches nvcc 13.0 into toolkit/, where build.rs finds it
    Toolkit,
    /// Regenerates src/device/bindings.rs from the C headers in cuda/
    Bindings {
        /// Compares instead of writing
        #[arg(long)]
        check: bool,
    },
    /// Checks the rules of the house: where instructions, `unsafe` and long functions may be
    Lint,
    /// Compares registers, shared memory and instructions of the compiled kernels with the committed table
    Resources {
        /// Writes the table instead
        #[arg(long)]
        bless: bool,
    },
    /// Runs the tests, benches and the program that use a GPU under the fake driver
    GpuPath,
    /// Packs what runs on a GPU host without Rust in target/hardware.tar.xz
    Bundle,
    /// Unpacks that archive elsewhere and runs it as on a GPU host, under the fake driver
    Rehearse,
    /// Packs what goes to the registry, and uses it outside the repository
    Package,
    /// Tries every mutant of the kernels and writes down what noticed it, or those of the host's half: both take hours
    Mutants {
        /// Only of kernels whose file or change has this text: `gemm/`, `router/gate`
        #[arg(default_value = "")]
        only: String,
        /// Of checks, planner and schedules instead, by cargo-mutants, with these arguments
        #[arg(long, num_args = 0.., allow_hyphen_values = true, conflicts_with = "only")]
        host: Option<Vec<String>>,
    },
    /// Runs every check, as CI does
    Test,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?;
    match Arguments::parse().chore {
        Chore::Toolkit => toolkit::fetch_nvcc(root),
        Chore::Bindings { check } => bindings::regenerate(root, check),
        Chore::Lint => lint::run(root),
        Chore::Resources { bless } => resources::check(root, bless),
        Chore::GpuPath => gpu_path::check(root),
        Chore::Bundle => bundle::make(root),
        Chore::Rehearse => rehearsal::run(root),
        Chore::Package => package::check(root),
        Chore::Mutants { host: Some(arguments), .. } => mutants::host(root, &arguments),
        Chore::Mutants { host: None, only } => mutants::kernels(root, &only),
        Chore::Test => test::run_all(root),
    }
}
