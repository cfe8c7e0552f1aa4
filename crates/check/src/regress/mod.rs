//! `regress`: what right kernels gave, kept, and compared with what they give now.

pub mod baseline;
mod check;
mod device;
pub mod diagnosis;
pub mod digest;
pub mod exchange;
pub mod guarantees;
mod operation;
mod record;
mod subject;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use clap::{Args, Subcommand};
use deepseek_kernels::EmulatorOptions;
use serde::Deserialize;

pub use check::{Compared, Held, Report, Verdict, check};
pub use device::DeviceClass;
pub use operation::{Operation, run};
pub use record::record;
pub use subject::{Subject, ours, registered, run_case};

use crate::case::Cases;
use crate::cli::DeviceChoice;
use crate::console::Console;
use crate::driver;
use crate::escape::escaped;
use crate::families::{self, Extent};
use crate::json;
use crate::machine::Machine;
use crate::output::OutputFile;
use crate::select::Selection;
use baseline::Baseline;
use exchange::{ExportArgs, JudgeArgs};
use guarantees::Kept;

#[derive(Args)]
pub struct RegressArgs {
    #[command(subcommand)]
    pub command: Action,
}

#[derive(Subcommand)]
pub enum Action {
    /// Write a baseline: run and judge every case, and keep what tells a change
    Record(RecordArgs),
    /// Run the cases of a baseline again and compare
    Check(CheckArgs),
    /// Write inputs of an operation for a kernel of yours
    Export(ExportArgs),
    /// Judge what a kernel of yours made of such inputs, by this crate's references and bounds
    Judge(JudgeArgs),
    /// Check what is promised to the bit: invariance, fusion, graphs, splits, pages
    Guarantees(GuaranteesArgs),
}

#[derive(Args)]
pub struct RecordArgs {
    /// The file to write; what was there is replaced whole or not at all
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,

    /// Where to run: `auto` takes the first GPU and falls back to the emulated Hopper
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,

    #[command(flatten)]
    pub selection: Selection,

    /// Inputs other than the usual ones; also the order in which the emulator runs threads
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Args)]
pub struct CheckArgs {
    /// A baseline
    pub file: PathBuf,

    /// Compare bits alone: for a device of the baseline's class
    #[arg(long, conflicts_with = "bounds")]
    pub bits: bool,

    /// Compare errors with bounds alone: for any device
    #[arg(long)]
    pub bounds: bool,

    /// Where to run: `auto` takes the first GPU and falls back to the emulated Hopper
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,

    #[command(flatten)]
    pub selection: Selection,

    /// Write what was found to a file too; with `-` to standard output, and the text to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Args)]
pub struct GuaranteesArgs {
    /// Where to run: `auto` takes the first GPU and falls back to the emulated Hopper
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,

    /// Check only these: `batch invariance`
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub only: Vec<String>,

    /// Write what was found to a file too; with `-` to standard output, and the text to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Every case that a baseline is recorded of.
pub fn cases() -> Cases {
    let mut cases = families::all(|family| (family.smoke)());
    cases.extend(families::all(|family| (family.timed)(Extent::Reduced)));
    cases
}

/// Does what is asked; the message says why nothing was done.
///
/// # Errors
/// In one line, what cannot be used, or which case is wrong.
pub fn regress(args: &RegressArgs) -> Result<Verdict, String> {
    match &args.command {
        Action::Record(args) => record_ours(args),
        Action::Check(args) => check_ours(args),
        Action::Export(args) => exchange::export(args),
        Action::Judge(args) => exchange::judge(args),
        Action::Guarantees(args) => keep(args),
    }
}

fn record_ours(args: &RecordArgs) -> Result<Verdict, String> {
    let cases = args.selection.select(cases())?;
    let file = OutputFile::open(&args.to, [])?;
    let machine = open(args.device, args.seed)?;
    let subjects = ours(cases, args.seed, &machine.devices);
    let device = DeviceClass::of(machine.device());
    save(&subjects, machine.devices.len(), device, args.seed, file)
}

/// Records and writes.
fn save(
    subjects: &[Box<dyn Subject + '_>],
    workers: usize,
    device: DeviceClass,
    seed: u64,
    file: OutputFile,
) -> Result<Verdict, String> {
    let console = Console::beside([&file]);
    match record(subjects, workers, device, seed) {
        Ok(baseline) => {
            baseline.write(file)?;
            console.print(&format!(
                "{} cases recorded on {}\n",
                baseline.cases.len(),
                escaped(&baseline.device.to_string())
            ))?;
            Ok(Verdict::Pass)
        }
        Err(wrong) => {
            console.print(&format!("FAIL: {}; nothing was recorded\n", escaped(&wrong)))?;
            Ok(Verdict::Fail)
        }
    }
}

fn check_ours(args: &CheckArgs) -> Result<Verdict, String> {
    let mut baseline = Baseline::read(&args.file)?;
    let to = args.json.as_deref().map(|path| OutputFile::open(path, [args.file.as_path()])).transpose()?;
    let chosen = args.selection.select(cases())?;
    if args.selection != Selection::default() {
        baseline.cases.retain(|entry| chosen.iter().any(|case| case.name() == entry.name));
    }
    if baseline.cases.is_empty() {
        return Err(format!("{} has none of these cases", args.file.display()));
    }
    let machine = open(args.device, baseline.seed)?;
    let subjects = ours(chosen, baseline.seed, &machine.devices);
    let device = DeviceClass::of(machine.device());
    let report = check(&baseline, subjects, machine.devices.len(), device, held(args.bits, args.bounds));
    tell(&report, to)
}

/// Checks the guarantees one by one. Graphs are the fake driver's where there is no GPU.
fn keep(args: &GuaranteesArgs) -> Result<Verdict, String> {
    let guarantees = guarantees::named(&args.only).map_err(|error| error.to_string())?;
    let to = args.json.as_deref().map(|path| OutputFile::open(path, [])).transpose()?;
    let console = Console::beside(&to);
    let machine = open(args.device, 0)?;
    let mut all = Vec::new();
    for guarantee in guarantees {
        let mut kept = guarantee.kept(machine.device());
        if kept.reason.is_some() {
            kept = under_the_fake_driver(kept)?;
        }
        let mut text = format!(
            "{:12}  {}: {} ({} comparisons)\n",
            kept.verdict, kept.name, kept.promise, kept.comparisons
        );
        for line in kept.broken.iter().chain(&kept.reason) {
            let _ = writeln!(text, "              {}", escaped(line));
        }
        console.print(&text)?;
        all.push(kept);
    }
    to.map_or(Ok(()), |file| file.write(json::render(&all)?.as_bytes()))?;
    Ok(all.iter().map(|kept| kept.verdict).max().unwrap_or(Verdict::Inconclusive))
}

/// The same by this program under the fake driver, which has what the emulator alone does not.
fn under_the_fake_driver(kept: Kept) -> Result<Kept, String> {
    let text = |error: std::io::Error| format!("the fake driver: {error}");
    let folder = tempfile::tempdir().map_err(text)?;
    driver::install(folder.path())?;
    let report = folder.path().join("report.json");
    let mut program = Command::new(env::current_exe().map_err(text)?);
    program.args(["regress", "guarantees", "--device", "gpu", "--only", kept.name, "--json"]).arg(&report);
    let ended = program.env("LD_LIBRARY_PATH", folder.path()).output().map_err(text)?;
    let said = fs::read(&report).ok().and_then(|text| serde_json::from_slice::<Vec<Told>>(&text).ok());
    let Some([Told { comparisons, broken }]) = said.as_deref() else {
        let reason = format!("under the fake driver: {}", String::from_utf8_lossy(&ended.stderr).trim());
        return Ok(Kept { reason: Some(reason), ..kept });
    };
    let verdict = if broken.is_empty() { Verdict::Pass } else { Verdict::Fail };
    Ok(Kept { verdict, comparisons: *comparisons, broken: broken.clone(), reason: None, ..kept })
}

/// What another process says of a guarantee.
#[derive(Deserialize)]
struct Told {
    comparisons: usize,
    broken: Vec<String>,
}

fn held(bits: bool, bounds: bool) -> Held {
    match (bits, bounds) {
        (true, _) => Held::Bits,
        (_, true) => Held::Bounds,
        _ => Held::Both,
    }
}

fn open(choice: DeviceChoice, seed: u64) -> Result<Machine, String> {
    Machine::open(choice, EmulatorOptions { seed, ..Default::default() })
}

/// Prints what was found, and writes it.
fn tell(report: &Report, to: Option<OutputFile>) -> Result<Verdict, String> {
    let console = Console::beside(&to);
    let mut text = String::new();
    for case in report.cases.iter().filter(|case| !case.findings.is_empty()) {
        for finding in &case.findings {
            let _ = writeln!(text, "{} {}: {}", case.verdict, case.name, finding);
        }
    }
    let notes = report
        .cases
        .iter()
        .flat_map(|case| case.notes.iter().map(move |note| format!("{}: {note}", case.name)));
    for note in report.notes.iter().cloned().chain(notes) {
        let _ = writeln!(text, "note: {note}");
    }
    let count = |verdict| report.cases.iter().filter(|case| case.verdict == verdict).count();
    let (passed, failed) = (count(Verdict::Pass), count(Verdict::Fail));
    let inconclusive = count(Verdict::Inconclusive);
    let _ =
        writeln!(text, "{}: {passed} passed, {failed} failed, {inconclusive} inconclusive", report.verdict);
    let shown: Vec<String> = text.lines().map(escaped).collect();
    console.print(&(shown.join("\n") + "\n"))?;
    to.map_or(Ok(()), |file| file.write(json::render(report)?.as_bytes()))?;
    Ok(report.verdict)
}
