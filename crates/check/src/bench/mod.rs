//! `bench`: times of every operation on a GPU, counts without one; and what criterion's benches share.

mod against;
pub mod args;
mod card;
pub mod compare;
pub mod counting;
mod floor;
#[cfg(feature = "benches")]
pub mod gpu;
pub mod lists;
mod measure;
pub mod record;
pub mod report;
mod runs;
mod share;
mod statistics;
pub mod steps;
mod table;
pub mod timing;

use std::path::Path;

use crate::console::Console;
use crate::json;
use crate::output::OutputFile;
use args::BenchArgs;
use compare::{Comparison, Verdict as Of};
use record::Record;

/// What came of it, as an exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing became slower.
    Passed,
    /// A kernel is slower than it was, or wrong.
    Failed,
    /// Some of what was to be compared could not be.
    NotComparable,
}

/// Does what was asked for; the message says why it could not.
///
/// # Errors
/// In one line.
pub fn bench(args: &BenchArgs) -> Result<Verdict, String> {
    let [old, peers, with] =
        [&args.compare, &args.peers, &args.with].map(|file| file.as_deref().map(Record::read).transpose());
    let (old, peers, with) = (old?, peers?, with?);
    let inputs: Vec<&Path> =
        [&args.compare, &args.peers, &args.with].into_iter().filter_map(|file| file.as_deref()).collect();
    let open = |path: &Path| OutputFile::open(path, inputs.iter().copied());
    let json = args.json.as_deref().map(open).transpose()?;
    let report = args.report.as_deref().map(open).transpose()?;
    let picture = |name: &str| args.pictures.as_deref().map(|folder| open(&folder.join(name))).transpose();
    let pictures = [picture("roofline.svg")?, picture("bars.svg")?];

    let (mut record, old) = match (with, &args.against) {
        (Some(with), _) => (with, old),
        (None, None) => (runs::run(args)?, old),
        (None, Some(revision)) => {
            let (new, old) = against::by_turns(args, revision)?;
            (new, Some(old))
        }
    };
    let ours = record.rows.iter().filter(|row| row.who == "ours");
    let wrong = ours.filter_map(|row| row.failure.as_ref()).any(|failure| failure.wrong);
    if let Some(peers) = peers {
        record.rows.extend(peers.rows.into_iter().filter(|row| row.who != "ours"));
    }
    let comparison = old.map(|old| Comparison::of(&old, &record));

    let mut text = table::render(&record);
    text.extend(comparison.iter().map(Comparison::to_string));
    Console::beside([&json, &report].into_iter().flatten()).print(&text)?;
    if let Some(file) = json {
        file.write(json::render(&record)?.as_bytes())?;
    }
    if let Some(file) = report {
        file.write(report::html(&record, comparison.as_ref()).as_bytes())?;
    }
    let drawn = [report::roofline_svg(&record), report::bars_svg(&record)];
    for (file, drawn) in pictures.into_iter().zip(drawn) {
        if let (Some(file), Some(drawn)) = (file, drawn) {
            file.write(drawn.as_bytes())?;
        }
    }
    Ok(verdict(wrong, comparison.as_ref()))
}

/// What is slower for certain weighs more than what cannot be told.
fn verdict(wrong: bool, comparison: Option<&Comparison>) -> Verdict {
    let slower = comparison.is_some_and(|comparison| comparison.count(Of::Slower) > 0);
    let unknown = comparison.is_some_and(|comparison| !comparison.problems.is_empty());
    match (wrong || slower, unknown) {
        (true, _) => Verdict::Failed,
        (false, true) => Verdict::NotComparable,
        (false, false) => Verdict::Passed,
    }
}
