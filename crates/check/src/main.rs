//! The crate's program: runs its kernels on the best device found and says whether they are right; times them; keeps
//! what they gave and compares; writes the fake driver.

use std::process::ExitCode;

use deepseek_kernels_check::bench;
use deepseek_kernels_check::cli::{self, Cli, Command};
use deepseek_kernels_check::driver;
use deepseek_kernels_check::escape::escaped;
use deepseek_kernels_check::regress;
use deepseek_kernels_check::verify::{self, Verdict};

/// A check failed.
const FAILED: u8 = 1;
/// Nothing was judged: no such device, no such file, nothing to do. Clap uses the same for a wrong command line.
const UNUSABLE: u8 = 2;
/// What was judged is right; some of what was asked for could not be.
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    let result = match cli::parse::<Cli>().command {
        Command::Verify(args) => verify::verify(&args).map(|verdict| match verdict {
            Verdict::Passed => ExitCode::SUCCESS,
            Verdict::Failed => ExitCode::from(FAILED),
            Verdict::Incomplete => ExitCode::from(INCOMPLETE),
        }),
        Command::Bench(args) => bench::bench(&args).map(|verdict| match verdict {
            bench::Verdict::Passed => ExitCode::SUCCESS,
            bench::Verdict::Failed => ExitCode::from(FAILED),
            bench::Verdict::NotComparable => ExitCode::from(INCOMPLETE),
        }),
        Command::Regress(args) => regress::regress(&args).map(regress::Verdict::exit_code),
        Command::Driver(args) => driver::write(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|message| {
        eprintln!("error: {}", escaped(&message));
        ExitCode::from(UNUSABLE)
    })
}
