//! What an engine says of an operation of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use oracles::gemm::Output as Rounding;
use oracles::verdict::within;
use safetensors::Dtype;

use super::baseline::Baseline;
use super::check::{Verdict, check};
use super::device::DeviceClass;
use super::subject::registered;
use crate::escape::escaped;
use crate::judge::Check;
use crate::memory::Output;
use crate::output::OutputFile;

/// An operation with its sizes. It runs where the engine runs it, and gives the same bits for the same seed.
///
/// `crates/check/examples/regress.rs` registers one.
pub trait Operation: Sync {
    /// Different for each, without spaces: `silu/4x256`.
    fn name(&self) -> String;

    /// Draws inputs from the seed, computes, and waits.
    ///
    /// # Errors
    /// Why it gave nothing.
    fn run(&self, seed: u64) -> Result<Vec<Output>>;

    /// Of each output in order, every element's right value and how far a right kernel may be from it. Without one, bits are
    /// compared and nothing else.
    fn reference(&self, _seed: u64) -> Vec<Vec<(f64, f64)>> {
        Vec::new()
    }

    /// The kernel that runs.
    fn instance(&self) -> String {
        String::new()
    }
}

/// The command line of a program that registers operations.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a baseline of every operation
    Record {
        /// The file to write; what was there is replaced whole or not at all
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Chooses the inputs
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Run every operation of a baseline again and compare
    Check {
        /// A baseline
        file: PathBuf,
        /// Compare bits alone
        #[arg(long, conflicts_with = "bounds")]
        bits: bool,
        /// Compare errors with bounds alone
        #[arg(long)]
        bounds: bool,
        /// Write what was found to a file too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// `record` and `check` of registered operations, by the arguments of a program, its name among them. `device` says whose
/// bits may be compared. Prints what it finds, and returns what the program should end with.
pub fn run<A: Into<OsString> + Clone>(
    operations: &[Box<dyn Operation>],
    device: DeviceClass,
    arguments: impl IntoIterator<Item = A>,
) -> ExitCode {
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(error) => {
            // A reader that has gone is no reason for another ending.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match obey(command, operations, device) {
        Ok(verdict) => verdict.exit_code(),
        Err(message) => {
            eprintln!("error: {}", escaped(&message));
            Verdict::Inconclusive.exit_code()
        }
    }
}

fn obey(command: Command, operations: &[Box<dyn Operation>], device: DeviceClass) -> Result<Verdict, String> {
    match command {
        Command::Record { to, seed } => {
            let file = OutputFile::open(&to, [])?;
            super::save(&registered(operations, seed), 1, device, seed, file)
        }
        Command::Check { file, bits, bounds, json } => {
            let baseline = Baseline::read(&file)?;
            let json = json.as_deref().map(|path| OutputFile::open(path, [file.as_path()])).transpose()?;
            let subjects = registered(operations, baseline.seed);
            super::tell(&check(&baseline, subjects, 1, device, super::held(bits, bounds)), json)
        }
    }
}

/// An output against its reference.
pub(super) fn judge(output: &Output, near: &[(f64, f64)]) -> Check {
    let rounding = match output.dtype {
        Dtype::BF16 => Rounding::Bf16,
        Dtype::F32 => Rounding::F32,
        other => return Check::failed("bound", format!("{}: no bound is checked of {other:?}", output.name)),
    };
    if near.len() != output.elements() {
        let counts = format!("expected {} elements, got {}", near.len(), output.elements());
        return Check::failed("bound", format!("{}: {counts}", output.name));
    }
    let (expected, bound): (Vec<f64>, Vec<f64>) = near.iter().copied().unzip();
    let got = output.widened();
    Check::of("bound", &within(rounding, &expected, &bound, output.columns.max(1), &|i| got[i]), None)
}
