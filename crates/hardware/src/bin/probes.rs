//! Single instructions against what the emulated Hopper and the bit model believe of them. A difference is data, not a
//! failure: it says which belief is wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use deepseek_kernels::Device;
use deepseek_kernels::probe::catalogue::{ENTRIES, Entry};
use deepseek_kernels::probe::{Effort, Findings};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Asks a GPU about single instructions; a JSON object a line")]
struct Arguments {
    /// Only probes whose name begins with this
    #[arg(long)]
    only: Option<String>,
    /// Prints names and beliefs
    #[arg(long)]
    list: bool,
    /// Fewer values, as a rehearsal takes them
    #[arg(long)]
    reduced: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} probes could not be asked");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The number of probes whose launch failed.
fn run(arguments: &Arguments) -> Result<usize> {
    let wanted = |entry: &Entry| arguments.only.as_ref().is_none_or(|only| entry.name.starts_with(only));
    let entries = || ENTRIES.iter().filter(|entry| wanted(entry));
    if arguments.list {
        entries().for_each(|entry| println!("{}: {}", entry.name, entry.belief));
        return Ok(0);
    }
    let effort = if arguments.reduced { Effort::Quick } else { Effort::Full };
    let device = Device::open_gpu(0)?;
    let mut failed = 0;
    for entry in entries() {
        let answer = match (entry.run)(&device, effort) {
            Ok(findings) => findings_json(&findings),
            Err(error) => {
                failed += 1;
                json!({"error": error.to_string()})
            }
        };
        let line = json!({"probe": entry.name, "belief": entry.belief, "relied_on": entry.relied_on, "answer": answer});
        writeln!(io::stdout().lock(), "{line}")?;
    }
    Ok(failed)
}

fn findings_json(findings: &Findings) -> Value {
    let first: Vec<Value> = findings
        .first
        .iter()
        .map(|difference| json!({"inputs": difference.inputs, "expected": difference.expected, "got": difference.got}))
        .collect();
    json!({"checked": findings.checked, "different": findings.different, "first": first})
}
