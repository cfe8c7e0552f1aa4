//! Compares a run with a baseline.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use super::baseline::{Baseline, CheckEntry, Entry, OutputEntry};
use super::device::DeviceClass;
use super::diagnosis::{Diagnosis, diagnose, diagnose_hashes};
use super::digest::{Bits, hash};
use super::record::{each, error_entry, failure_of, resources_of};
use super::subject::{Gave, Subject};
use crate::anatomy::Anatomy;
use crate::judge::{Check, Scrutiny};

/// What a run is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The bits of the baseline.
    Bits,
    /// The bounds of the judges, and errors that are no larger than the baseline's.
    Bounds,
    /// Both; on a device of another class, the bounds.
    Both,
}

/// What comes of a comparison. The worse ones come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    /// Something could not be compared, and nothing is wrong.
    Inconclusive,
    Fail,
}

impl Verdict {
    /// What the program ends with: 0, 1 or 2.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Inconclusive => 2,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Fail => "FAIL",
        })
    }
}

/// A mean error this much larger than it was is one bit of precision lost.
const ONE_BIT: f64 = 2.0;

/// What comes of one case.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub name: String,
    pub verdict: Verdict,
    /// What is wrong, or why nothing can be said.
    pub findings: Vec<String>,
    /// What has changed and is not wrong.
    pub notes: Vec<String>,
    pub diagnoses: Vec<Diagnosis>,
}

/// What comes of all.
#[derive(Debug, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    pub device: DeviceClass,
    pub baseline: DeviceClass,
    pub notes: Vec<String>,
    pub cases: Vec<Compared>,
}

/// Every case of a baseline, run again. `subjects` are all that this program has.
pub fn check(
    baseline: &Baseline,
    subjects: Vec<Box<dyn Subject + '_>>,
    workers: usize,
    device: DeviceClass,
    held: Held,
) -> Report {
    let mut there: BTreeMap<String, Box<dyn Subject + '_>> =
        subjects.into_iter().map(|subject| (subject.name(), subject)).collect();
    let (mut asked, mut entries, mut cases) = (Vec::new(), Vec::new(), Vec::new());
    for entry in &baseline.cases {
        match there.remove(&entry.name) {
            Some(subject) => {
                asked.push(subject);
                entries.push((entry.name.as_str(), entry));
            }
            None => cases.push(missing(entry)),
        }
    }
    let mut notes = Vec::new();
    if !there.is_empty() {
        notes.push(format!("{} cases of this version are not in the baseline", there.len()));
    }
    let same_class = device == baseline.device;
    if !same_class {
        notes.push(format!(
            "the baseline is of {}: bits are not compared with those of {device}",
            baseline.device
        ));
    }
    notes.extend(changed_resources(baseline));
    let entries: BTreeMap<&str, &Entry> = entries.into_iter().collect();
    let one = |subject: &dyn Subject, worker: usize| {
        let entry = entries[subject.name().as_str()];
        compared(entry, subject, worker, held, same_class)
    };
    cases.extend(each(&asked, workers, one));
    let verdict = cases.iter().map(|case| case.verdict).max().unwrap_or(Verdict::Inconclusive);
    Report { verdict, device, baseline: baseline.device.clone(), notes, cases }
}

fn missing(entry: &Entry) -> Compared {
    let finding = "this version has no such case".to_owned();
    Compared {
        name: entry.name.clone(),
        verdict: Verdict::Inconclusive,
        findings: vec![finding],
        notes: Vec::new(),
        diagnoses: Vec::new(),
    }
}

fn compared(entry: &Entry, subject: &dyn Subject, worker: usize, held: Held, same_class: bool) -> Compared {
    let mut result = Compared {
        name: entry.name.clone(),
        verdict: Verdict::Pass,
        findings: Vec::new(),
        notes: Vec::new(),
        diagnoses: Vec::new(),
    };
    if held == Held::Bits && !same_class {
        result.verdict = Verdict::Inconclusive;
        result.findings.push("bits of another device class are not compared".to_owned());
        return result;
    }
    if entry.data != subject.data() {
        result.verdict = Verdict::Inconclusive;
        result.findings.push(format!("its inputs are now {}, they were {}", subject.data(), entry.data));
        return result;
    }
    let scrutiny = if held == Held::Bits { Scrutiny::Brief } else { Scrutiny::Thorough };
    let gave = match subject.run(worker, scrutiny) {
        Ok(gave) => gave,
        Err(error) => {
            result.fail(format!("it does not run: {error:#}"));
            return result;
        }
    };
    if let Some((oracle, failure)) = failure_of(&gave.checks) {
        result.fail(format!("{oracle}: {failure}"));
    }
    if gave.writes != entry.writes {
        result.fail(format!("it may write {}, it was {}", gave.writes.join(", "), entry.writes.join(", ")));
    }
    if same_class && held != Held::Bounds {
        result.compare_bits(entry, &gave);
    }
    if held != Held::Bits {
        result.compare_errors(entry, &gave.checks);
    }
    if gave.instance != entry.instance {
        result.notes.push(format!("{} ran, it was {}", gave.instance, entry.instance));
    }
    result
}

impl Compared {
    fn fail(&mut self, finding: String) {
        self.verdict = Verdict::Fail;
        self.findings.push(finding);
    }

    fn compare_bits(&mut self, entry: &Entry, gave: &Gave) {
        let names = |names: Vec<&str>| names.join(", ");
        let was = names(entry.outputs.iter().map(|output| output.name.as_str()).collect());
        let is = names(gave.outputs.iter().map(|output| output.name).collect());
        if was != is {
            return self.fail(format!("its outputs are {is}, they were {was}"));
        }
        for (index, (expected, got)) in entry.outputs.iter().zip(&gave.outputs).enumerate() {
            let got = Bits::of(got);
            if expected.dtype != got.dtype || expected.shape != [got.rows, got.columns] {
                let is = format!("{:?} [{}, {}]", got.dtype, got.rows, got.columns);
                self.fail(format!(
                    "{} is {is}, it was {:?} {:?}",
                    expected.name, expected.dtype, expected.shape
                ));
            } else if hash(&got) != expected.hash {
                let mut found = diagnosed(index, expected, &got, gave.anatomy());
                if let Some(diagnosis) = &mut found {
                    diagnosis.of_bound = of_bound(&gave.checks);
                }
                match &found {
                    Some(diagnosis) => self.fail(diagnosis.to_string()),
                    None => self.fail(format!(
                        "{} has other bits, in no row and no column that is told",
                        expected.name
                    )),
                }
                self.diagnoses.extend(found);
            }
        }
    }

    fn compare_errors(&mut self, entry: &Entry, checks: &[Check]) {
        for CheckEntry { oracle, errors, .. } in &entry.checks {
            let Some(was) = errors else { continue };
            let now = checks.iter().find(|check| check.oracle == oracle).and_then(error_entry);
            let Some(now) = now else {
                if self.verdict == Verdict::Pass {
                    self.verdict = Verdict::Inconclusive;
                    self.findings.push(format!("nothing is judged by its {oracle}"));
                }
                continue;
            };
            let told = format!("mean error of the {oracle}: {} of it, it was {}", now.mean, was.mean);
            if now.mean >= ONE_BIT * was.mean && now.mean > 0.0 {
                self.fail(format!("a bit of precision is lost. {told}"));
            } else if was.mean >= ONE_BIT * now.mean && was.mean > 0.0 {
                self.notes.push(format!("better by a bit or more. {told}"));
            }
        }
    }
}

/// By all bits that were expected: the file's, or the reference's if they are what the file has the hash of.
fn diagnosed(
    index: usize,
    entry: &OutputEntry,
    got: &Bits,
    anatomy: Option<&dyn Anatomy>,
) -> Option<Diagnosis> {
    let of_first = anatomy.filter(|_| index == 0);
    let expected = entry.stored().or_else(|| {
        let expected = anatomy?.expected().ok()?;
        expected.get(index).map(Bits::of).filter(|expected| hash(expected) == entry.hash)
    });
    match expected {
        Some(expected) => diagnose(&entry.name, &expected, got, of_first),
        None => diagnose_hashes(entry, got, of_first.map(Anatomy::tiling).as_ref()),
    }
}

/// The largest error that a bound was asked of.
fn of_bound(checks: &[Check]) -> Option<f64> {
    let errors = checks.iter().flat_map(|check| &check.errors.ratios);
    errors.copied().max_by(f32::total_cmp).map(f64::from)
}

/// Kernels that need other registers than they did, or spill.
fn changed_resources(baseline: &Baseline) -> Vec<String> {
    let now = resources_of(&baseline.cases);
    let mut notes = Vec::new();
    for (kernel, was) in &baseline.kernels {
        let Some(now) = now.get(kernel) else { continue };
        let changed = was.iter().filter_map(|(column, was)| {
            let now = now.get(column)?;
            (now != was).then(|| format!("{column} {was} -> {now}"))
        });
        let changed: Vec<String> = changed.collect();
        if !changed.is_empty() {
            notes.push(format!("{kernel} is compiled otherwise: {}", changed.join(", ")));
        }
    }
    notes
}
