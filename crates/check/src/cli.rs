//! The command line.

use std::env;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use regex::Regex;

use crate::bench::args::BenchArgs;
use crate::escape::escaped;
use crate::regress::RegressArgs;
use crate::verify::shapes::Layer;

/// The command line, or the end of the process with what is wrong with it. What an argument holds is shown escaped.
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        let shown = env::args_os().map(|argument| escaped(&argument.to_string_lossy()));
        T::try_parse_from(shown).err().unwrap_or(error).exit()
    })
}

/// Hand-written Hopper kernels for DeepSeek-style models.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run every operation and judge its results: on DeepSeek-V3 layers, or on a model of yours
    ///
    /// Every result is compared with a CPU reference, element by element. Exit code: 0 when all checks pass, 1 when
    /// one fails, 2 when nothing could be checked (no such device, a file that cannot be used, a wrong option), 3 when
    /// all that was checked passed but some FP8 matrix of a model could not be checked.
    Verify(VerifyArgs),
    /// Time every operation on a GPU, or count what it does without one; compare with other libraries and with runs before
    ///
    /// A result is judged before it is timed. Exit code: 0, or 1 when a kernel became slower or is wrong, 2 when nothing could
    /// be run (no such device, list, operation or file, a wrong option), 3 when some of what was to be compared could not be:
    /// another device, a row that is missing, a GPU that held its clocks down.
    Bench(BenchArgs),
    /// Keep what right kernels gave, and compare it with what they give now
    ///
    /// Exit code: 0 for PASS, 1 for FAIL, 2 for INCONCLUSIVE, and when nothing could be compared (no such device, a file that
    /// cannot be used, a wrong option).
    Regress(RegressArgs),
    /// Write a CUDA driver that needs no GPU: it checks every call and runs this crate's kernels on the emulated Hopper
    ///
    /// A program started with LD_LIBRARY_PATH=DIR finds it instead of a real one. Exit code: 0, or 2 when it could not
    /// be written.
    Driver(DriverArgs),
}

#[derive(Args)]
pub struct DriverArgs {
    /// The folder to write libcuda.so.1 into; it must exist, and a file of that name is replaced unless it is another
    /// driver
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
}

#[derive(Args)]
pub struct VerifyArgs {
    /// Where to run: `auto` takes the first GPU and falls back to the emulated Hopper
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,

    /// Rows of activations [default: 4096,128,64,1 on a GPU, few on the emulator; 64 with --weights]
    #[arg(long, value_delimiter = ',', value_name = "M,...", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub m: Vec<u32>,

    /// Take the sizes of the emulator on a GPU too: seconds instead of minutes
    #[arg(long, conflicts_with_all = ["m", "weights"])]
    pub small: bool,

    /// Layers to run instead of those of DeepSeek-V3: n a multiple of 8, k of 128
    #[arg(long, value_delimiter = ',', value_name = "NxK,...", conflicts_with = "weights")]
    pub shapes: Vec<Layer>,

    /// Check the matrices of a model instead: quantise them, multiply them with activations of real scale, and report
    /// the error of the kernels and the error of FP8 apart. A safetensors file, a model's folder, or its
    /// model.safetensors.index.json
    #[arg(long, value_name = "MODEL")]
    pub weights: Option<PathBuf>,

    /// Take only tensors whose name matches
    #[arg(long, value_name = "REGEX", requires = "weights", value_parser = pattern)]
    pub tensor: Option<Regex>,

    /// Chooses inputs and samples; the same seed gives the same run
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Write the results to a file too; with `-` to standard output, and the table to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The first GPU, or else the emulated Hopper
    #[default]
    Auto,
    /// The first GPU
    Gpu,
    /// A Hopper emulated on the CPU
    Emulated,
}

/// A pattern, or in one line why it is none.
fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
