//! `verify`: every operation, judged.

use std::io::{self, Write};

use deepseek_kernels::reference::inputs::GemmClass;
use deepseek_kernels::{Device, DeviceKind, ScaleFormat};

use crate::cli::VerifyArgs;
use crate::gemm::GemmJob;
use crate::json::JsonFile;
use crate::machine::Machine;
use crate::quantize::{Kind, QuantizeJob};
use crate::report::{DeviceReport, Report, Unused};
use crate::runner::{self, Job, Outcome};
use crate::shapes::{DEEPSEEK_V3, Layer, default_rows, reduced_rows_note};
use crate::table;
use crate::weights;

/// Whether every check passed; the message says why none was made.
pub fn verify(args: &VerifyArgs) -> Result<bool, String> {
    let selection =
        args.weights.as_deref().map(|file| weights::select(file, args.tensor.as_ref())).transpose()?;
    let json = args.json.as_deref().map(JsonFile::create).transpose()?;
    let machine =
        Machine::open(args.device, args.seed).map_err(|error| format!("no device to run on: {error}"))?;
    let Work { jobs, unused, notes } = match selection {
        Some(selection) => weights_work(args, selection),
        None => layers_work(args, machine.device().kind()),
    };

    let mut report = Report {
        package: env!("CARGO_PKG_NAME"),
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
    let chosen = rows(args);
    let reduced = chosen.is_none() && kind == DeviceKind::Emulated;
    let rows = chosen.unwrap_or_else(|| default_rows(kind));
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &layer in layers {
        for &m in &rows {
            for class in [GemmClass::X1b, GemmClass::N3] {
                jobs.push(Box::new(GemmJob { class, m, layer, seed: args.seed }));
            }
        }
    }
    jobs.extend(quantize_jobs(layers, &rows, args.seed));
    Work { jobs, unused: Vec::new(), notes: reduced.then(reduced_rows_note).into_iter().collect() }
}

fn rows(args: &VerifyArgs) -> Option<Vec<usize>> {
    (!args.m.is_empty()).then(|| args.m.iter().map(|&m| m as usize).collect())
}

/// Activations depend on k alone, and several layers share one.
fn quantize_jobs(layers: &[Layer], rows: &[usize], seed: u64) -> Vec<Box<dyn Job>> {
    use ScaleFormat::{Fp32, PowerOfTwo};
    let mut widths: Vec<usize> = layers.iter().map(|layer| layer.k).collect();
    widths.sort_unstable();
    widths.dedup();
    let activations = widths.iter().flat_map(|&k| rows.iter().map(move |&m| (m, k))).flat_map(|(rows, k)| {
        [Kind::Rows(Fp32), Kind::RowsRowMajor(PowerOfTwo), Kind::Transpose].map(|kind| QuantizeJob {
            kind,
            rows,
            k,
            seed,
        })
    });
    let weights = layers.iter().flat_map(|layer| {
        [Fp32, PowerOfTwo].map(|format| QuantizeJob {
            kind: Kind::Blocks(format),
            rows: layer.n,
            k: layer.k,
            seed,
        })
    });
    activations.chain(weights).map(|job| Box::new(job) as Box<dyn Job>).collect()
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
