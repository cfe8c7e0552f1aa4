//! Single instructions against what the emulated Hopper and the bit model believe of them. A difference is data, not a
//! failure: it says which belief is wrong.

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Parser;
use deepseek_kernels::Device;
use deepseek_kernels::probe::catalogue::{ENTRIES, Entry};
use deepseek_kernels::probe::tma::Model;
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
    /// Instead: TMA boxes that start where none may, each in a process of its own, since it is lost
    #[arg(long)]
    starts: bool,
    /// Instead: only that one of them
    #[arg(long, conflicts_with = "starts")]
    start: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.start {
        Some(index) => ask_start(index).map(|()| 0),
        None if arguments.starts => ask_starts(),
        None => run(&arguments),
    };
    match outcome {
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

/// Loads and stores at every place where none may start.
fn starts() -> Vec<(Model, [i32; 3], bool)> {
    let of_model = |model: Model| {
        let coordinates = model.misaligned_coordinates();
        coordinates.into_iter().flat_map(move |at| [true, false].map(|loads| (model.clone(), at, loads)))
    };
    Model::all().into_iter().flat_map(of_model).collect()
}

fn ask_start(index: usize) -> Result<()> {
    let (model, at, loads) = &starts()[index];
    let device = Device::open_gpu(0)?;
    let answer =
        if *loads { model.check_loads(&device, &[*at]) } else { model.check_stores(&device, &[*at]) };
    let answer = answer.map_or_else(|error| json!({"error": error.to_string()}), |f| findings_json(&f));
    let what = if *loads { "load" } else { "store" };
    println!("{}", json!({"probe": format!("tma/start/{what}"), "inputs": format!("{} at {at:?}", model.name()), "answer": answer}));
    Ok(())
}

/// The number of processes that did not answer.
fn ask_starts() -> Result<usize> {
    const AT_ONCE: usize = 8;
    let program = std::env::current_exe()?;
    let indices: Vec<usize> = (0..starts().len()).collect();
    let mut silent = 0;
    for some in indices.chunks(AT_ONCE) {
        let children = some.iter().map(|index| Command::new(&program).args(["--start", &index.to_string()]).spawn());
        for child in children.collect::<Vec<_>>() {
            silent += usize::from(!child?.wait()?.success());
        }
    }
    Ok(silent)
}

fn findings_json(findings: &Findings) -> Value {
    let first: Vec<Value> = findings
        .first
        .iter()
        .map(|difference| json!({"inputs": difference.inputs, "expected": difference.expected, "got": difference.got}))
        .collect();
    json!({"checked": findings.checked, "different": findings.different, "first": first})
}
