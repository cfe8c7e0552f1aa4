//! `verify`: every operation, judged.

mod case_job;
mod json;
mod layers;
mod machine;
mod report;
mod runner;
pub mod shapes;
mod table;
mod weights;

use std::io::{self, Write};

use deepseek_kernels::{Device, DeviceKind};

use crate::cli::VerifyArgs;
use json::JsonFile;
use machine::Machine;
use report::{DeviceReport, Report, Unused};
use runner::{Job, Outcome};
use shapes::{DEEPSEEK_V3, GPU_ROWS};

/// Whether every check passed; the message says why none was made.
pub fn verify(args: &VerifyArgs) -> Result<bool, String> {
    let selection =
        args.weights.as_deref().map(|file| weights::select(file, args.tensor.as_ref())).transpose()?;
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let machine =
        Machine::open(args.device, args.seed).map_err(|error| format!("no device to run on: {error}"))?;
    let Work { jobs, unused, notes } = match selection {
        Some(selection) => weights_work(args, selection),
        None if args.small => layers_work(args, DeviceKind::Emulated),
        None => layers_work(args, machine.device().kind()),
    };

    let mut report = Report {
        package: "deepseek-kernels",
        version: env!("CARGO_PKG_VERSION"),
        device: describe(machine.device()),
        seed: args.seed,
        notes,
        rows: Vec::new(),
        unused,
        passed: 0,
        failed: 0,
    };
    report.notes.extend(machine.fallback.as_ref().map(|error| format!("not on a GPU: {error}")));
    announce(&report)?;
    for outcome in runner::run(&jobs, &machine.devices) {
        match outcome {
            Outcome::Rows(rows) => report.rows.extend(rows),
            Outcome::Unused(tensor) => report.unused.push(tensor),
        }
    }

    report.count();
    print(&table::render(&report))?;
    json.map_or(Ok(()), |json| json.commit(&report))?;
    if report.passed + report.failed == 0 {
        return Err("nothing was checked: no tensor can be used, for the reasons above".to_owned());
    }
    Ok(report.failed == 0)
}

/// What to do, and what to say of it beforehand.
struct Work {
    jobs: Vec<Box<dyn Job>>,
    unused: Vec<Unused>,
    notes: Vec<String>,
}

fn weights_work(args: &VerifyArgs, selection: weights::Selection) -> Work {
    /// A tile of the kernels.
    const ROWS: usize = 64;
    let (matrices, unused) = (selection.matrices, selection.unused);
    let rows = rows(args).unwrap_or(vec![ROWS]);
    let jobs = matrices.into_iter().flat_map(|matrix| weights::jobs(matrix, &rows, args.seed)).collect();
    Work { jobs, unused, notes: Vec::new() }
}

fn layers_work(args: &VerifyArgs, kind: DeviceKind) -> Work {
    let layers = if args.shapes.is_empty() { &DEEPSEEK_V3[..] } else { &args.shapes };
    let (mut jobs, note) = match (rows(args), kind) {
        (Some(rows), _) => (layers::everything(layers, &rows, args.seed), None),
        (None, DeviceKind::Cuda) => (layers::everything(layers, &GPU_ROWS, args.seed), None),
        (None, DeviceKind::Emulated) => (layers::rotating(layers, args.seed), Some(layers::rotation_note())),
    };
    if args.shapes.is_empty() {
        jobs.extend(layers::operations(kind, args.seed));
    }
    Work { jobs, unused: Vec::new(), notes: note.into_iter().collect() }
}

fn rows(args: &VerifyArgs) -> Option<Vec<usize>> {
    (!args.m.is_empty()).then(|| args.m.iter().map(|&m| m as usize).collect())
}

fn describe(device: &Device) -> DeviceReport {
    let kind = match device.kind() {
        DeviceKind::Cuda => "gpu",
        DeviceKind::Emulated => "emulated",
    };
    DeviceReport { name: device.name().to_owned(), kind, multiprocessors: device.multiprocessors() }
}

/// Says where and what, before the long wait.
fn announce(report: &Report) -> Result<(), String> {
    let DeviceReport { name, multiprocessors, .. } = &report.device;
    let mut text =
        format!("{} {} on {name}, {multiprocessors} multiprocessors\n", report.package, report.version);
    for note in &report.notes {
        text += &format!("{note}\n");
    }
    print(&text)
}

/// A reader that has seen enough, as `head` has, is no error.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}
