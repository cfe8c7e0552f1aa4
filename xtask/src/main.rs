//! Chores of developers and of people who carry the crate to a GPU: `cargo xtask help`.

mod bindings;
mod lint;
mod process;
mod toolkit;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

// What build.rs does without a test harness is tested here.
#[cfg(test)]
#[path = "../../build/compile.rs"]
mod compile;
#[path = "../../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;
#[path = "../../build/ptxas.rs"]
#[allow(dead_code)]
mod ptxas;

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
    /// Regenerates src/bindings.rs from cuda/params.h and cuda/emu/emu.h
    Bindings {
        /// Compares instead of writing
        #[arg(long)]
        check: bool,
    },
    /// Checks the rules of the house: where instructions, `unsafe` and long functions may be
    Lint,
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
    }
}
