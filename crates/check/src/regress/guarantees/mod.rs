//! Promises of this crate that hold to the bit, each by its name.

mod invariance;
mod memory;
mod operations;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use deepseek_kernels::{Device, Error};
use serde::Serialize;

use super::check::Verdict;
use super::digest::Bits;
use crate::case::{Problem, wait};
use crate::memory::{Arena, Memory, Output};

/// A promise.
pub struct Guarantee {
    pub name: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// Where it is broken, in words; how many comparisons held otherwise.
    check: fn(&Device) -> Result<Comparisons>,
}

/// Every promise.
pub const GUARANTEES: [Guarantee; 7] = [
    Guarantee {
        name: "batch invariance",
        promise: "a row, an expert and a sequence have the bits that they have alone",
        check: invariance::batch,
    },
    Guarantee {
        name: "tile invariance",
        promise: "every compiled instance gives the same bits",
        check: invariance::tile,
    },
    Guarantee {
        name: "fused = unfused",
        promise: "a fused operation gives the bits of the operations that it stands for",
        check: operations::fused,
    },
    Guarantee {
        name: "split and merged",
        promise: "one split is the whole; a part without keys changes no bit; a merge is within its bound",
        check: operations::split_and_merged,
    },
    Guarantee {
        name: "page placement",
        promise: "pages of any size, anywhere, or none: the same bits",
        check: memory::pages,
    },
    Guarantee {
        name: "two runs",
        promise: "a second run, and one in other memory, give the same bits",
        check: memory::two_runs,
    },
    Guarantee {
        name: "graph = eager",
        promise: "a replayed graph gives the bits of the launches",
        check: operations::graph,
    },
];

/// What a guarantee's comparisons found.
#[derive(Debug, Default)]
pub struct Comparisons {
    /// Comparisons that held.
    held: usize,
    /// What did not, and how.
    broken: Vec<String>,
    /// Why nothing could be compared.
    unasked: Option<String>,
}

impl Comparisons {
    /// One comparison more of a subject.
    fn compare(&mut self, subject: &str, expected: &[Output], got: &[Output]) {
        match difference(expected, got) {
            None => self.held += 1,
            Some(difference) => self.broken.push(format!("{subject}: {difference}")),
        }
    }
}

/// What comes of a guarantee.
#[derive(Debug, Serialize)]
pub struct Kept {
    pub name: &'static str,
    pub promise: &'static str,
    pub verdict: Verdict,
    pub comparisons: usize,
    pub broken: Vec<String>,
    pub reason: Option<String>,
}

impl Guarantee {
    /// Whether the device keeps it.
    pub fn kept(&self, device: &Device) -> Kept {
        let held = (self.check)(device);
        let Comparisons { held, broken, unasked } = held.unwrap_or_else(|error| Comparisons {
            broken: vec![format!("it does not run: {error:#}")],
            ..Comparisons::default()
        });
        let verdict = match (broken.is_empty(), held) {
            (false, _) => Verdict::Fail,
            (true, 0) => Verdict::Inconclusive,
            (true, _) => Verdict::Pass,
        };
        Kept { name: self.name, promise: self.promise, verdict, comparisons: held, broken, reason: unasked }
    }
}

/// What a problem gives, in memory of this kind. Nothing is judged.
fn bits(problem: Arc<dyn Problem>, device: &Device, memory: Memory) -> Result<Vec<Output>> {
    let mut prepared = problem.prepare(&mut Arena::new(device, memory))?;
    prepared.launch(device.stream()?)?;
    wait(device.stream()?)?;
    // What is wrong with its data is none of the next problem's.
    match device.poll_error() {
        Ok(()) | Err(Error::Data(_)) => prepared.outputs(),
        Err(error) => Err(error.into()),
    }
}

/// Where results differ, all NaN being one.
fn difference(expected: &[Output], got: &[Output]) -> Option<String> {
    if expected.len() != got.len() {
        return Some(format!("expected {} outputs, got {}", expected.len(), got.len()));
    }
    expected.iter().zip(got).find_map(|(expected, got)| {
        let (want, have) = (Bits::of(expected), Bits::of(got));
        if want.elements.len() != have.elements.len() {
            let counts = format!("expected {} elements, got {}", want.elements.len(), have.elements.len());
            return Some(format!("{}: {counts}", got.name));
        }
        let first = want.elements.iter().zip(&have.elements).position(|(want, have)| want != have)?;
        let count = want.elements.iter().zip(&have.elements).filter(|(want, have)| want != have).count();
        let (row, column) = (first / have.columns, first % have.columns);
        let (want, have) = (want.elements[first], have.elements[first]);
        Some(format!(
            "{}: {count} elements differ, first [{row}, {column}]: expected {want:#x}, got {have:#x}",
            got.name
        ))
    })
}

/// Some rows of an output.
fn rows(output: &Output, rows: std::ops::Range<usize>) -> Output {
    let bytes = output.columns * output.element_bytes();
    Output { bytes: output.bytes[rows.start * bytes..rows.end * bytes].to_vec(), ..output.clone() }
}

/// The only output of an operation that has one.
fn only(outputs: Vec<Output>) -> Result<Output> {
    let [output] = <[Output; 1]>::try_from(outputs).ok().context("one output")?;
    Ok(output)
}

/// The guarantees of these names; all, if none is named.
///
/// # Errors
/// The names that there are, where one is none.
pub fn named(names: &[String]) -> Result<Vec<&'static Guarantee>> {
    for name in names {
        if !GUARANTEES.iter().any(|guarantee| guarantee.name == name) {
            let there: Vec<_> = GUARANTEES.iter().map(|guarantee| guarantee.name).collect();
            bail!("no guarantee is called {name}; there are {}", there.join(", "));
        }
    }
    let asked = |guarantee: &&Guarantee| names.is_empty() || names.iter().any(|name| name == guarantee.name);
    Ok(GUARANTEES.iter().filter(asked).collect())
}
