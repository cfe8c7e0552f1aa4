//! `verify`: every operation, judged.

mod case_job;
mod layers;
mod progress;
mod report;
mod runner;
pub mod shapes;
mod table;
mod weights;

use std::path::PathBuf;

use deepseek_kernels::{Device, DeviceKind, EmulatorOptions};

use crate::cli::VerifyArgs;
use crate::console::Console;
use crate::escape::escaped;
use crate::json;
use crate::machine::Machine;
use crate::output::OutputFile;
use report::{DeviceReport, Report, Unused};
use runner::{Job, Outcome};
use shapes::{DEEPSEEK_V3, GPU_ROWS};

/// What came of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// What was checked passed, and some FP8 matrix could not be checked.
    Incomplete,
}

/// Judges what was asked for; the message says why nothing was.
pub fn verify(args: &VerifyArgs) -> Result<Verdict, String> {
    let selection =
        args.weights.as_deref().map(|model| weights::select(model, args.tensor.as_ref())).transpose()?;
    let inputs = selection.iter().flat_map(|selection| &selection.files).map(PathBuf::as_path);
    let json = args.json.as_deref().map(|path| OutputFile::open(path, inputs)).transpose()?;
    let console = Console::beside(&json);
    let machine = Machine::open(args.device, EmulatorOptions { seed: args.seed, ..Default::default() })?;
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
        fp8_matrices: 0,
        fp8_checked: 0,
    };
    report.notes.extend(machine.fallback.as_ref().map(|error| format!("not on a GPU: {error}")));
    console.print(&announcement(&report))?;
    for outcome in runner::run(&jobs, &machine.devices) {
        match outcome {
            Outcome::Rows(rows) => report.rows.extend(rows),
            Outcome::Unused(unused) => report.add_unused(unused),
        }
    }

    report.count();
    console.print(&table::render(&report))?;
    json.map_or(Ok(()), |json| json.write(json::render(&report)?.as_bytes()))?;
    if report.passed + report.failed == 0 {
        return Err("nothing was checked: no tensor can be used, for the reasons above".to_owned());
    }
    Ok(match (report.failed, report.fp8_checked == report.fp8_matrices) {
        (1.., _) => Verdict::Failed,
        (0, false) => Verdict::Incomplete,
        (0, true) => Verdict::Passed,
    })
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
    let (matrices, unused, notes) = (selection.matrices, selection.unused, selection.notes);
    let rows = rows(args).unwrap_or(vec![ROWS]);
    let jobs = matrices.into_iter().flat_map(|matrix| weights::jobs(matrix, &rows, args.seed)).collect();
    Work { jobs, unused, notes }
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

/// Where and what, before the long wait.
fn announcement(report: &Report) -> String {
    let DeviceReport { name, multiprocessors, .. } = &report.device;
    let (package, version, name) = (report.package, report.version, escaped(name));
    let mut text = format!("{package} {version} on {name}, {multiprocessors} multiprocessors\n");
    for note in &report.notes {
        text += &format!("{}\n", escaped(note));
    }
    text
}
