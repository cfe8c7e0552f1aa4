//! The crate's program: runs its kernels on the best device found and says whether they are right; writes the fake
//! driver.

use std::process::ExitCode;

use clap::Parser;
use deepseek_kernels_check::cli::{Cli, Command};
use deepseek_kernels_check::{driver, verify};

/// A check failed.
const FAILED: u8 = 1;
/// Nothing was judged: no such device, no such file, nothing to do. Clap uses the same for a wrong command line.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Verify(args) => verify::verify(&args),
        Command::Driver(args) => driver::write(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(UNUSABLE)
        }
    }
}
