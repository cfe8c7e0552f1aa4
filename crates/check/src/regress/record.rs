//! Writes a baseline.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, bail};

use super::baseline::{Baseline, CheckEntry, Entry, ErrorEntry, FORMAT, OutputEntry};
use super::device::DeviceClass;
use super::digest::{Bits, Places, column_digests, hash, row_digests};
use super::subject::{Gave, Subject};
use crate::judge::{Check, Scrutiny};
use crate::memory::Output;
use crate::resources;

/// Bytes of an output whose bits a baseline has; of larger ones it has hashes of rows and columns.
const STORED: usize = 1 << 10;

/// Every subject, run and judged. The first wrong one in their order makes none of it a baseline.
///
/// # Errors
/// The case and what is wrong with it.
pub fn record(
    subjects: &[Box<dyn Subject + '_>],
    workers: usize,
    device: DeviceClass,
    seed: u64,
) -> Result<Baseline, String> {
    let run = |subject: &dyn Subject, worker: usize| -> Result<Entry> {
        let gave = subject.run(worker, Scrutiny::Thorough)?;
        if let Some((oracle, failure)) = failure_of(&gave.checks) {
            bail!("{oracle}: {failure}");
        }
        Ok(entry(subject, &gave))
    };
    let mut cases = Vec::new();
    for (subject, entry) in subjects.iter().zip(each(subjects, workers, run)) {
        cases.push(entry.map_err(|error| format!("{} is wrong: {error:#}", subject.name()))?);
    }
    Ok(Baseline {
        format: FORMAT,
        package: "deepseek-kernels".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device,
        seed,
        compiler: resources::compiler(resources::TABLE).to_owned(),
        kernels: resources_of(&cases),
        cases,
    })
}

/// What the first failing judge says.
pub fn failure_of(checks: &[Check]) -> Option<(&str, &str)> {
    checks.iter().find_map(|check| Some((check.oracle, check.failure.as_deref()?)))
}

/// Of the kernels that the cases launch, what the committed table has.
pub fn resources_of(cases: &[Entry]) -> BTreeMap<String, BTreeMap<String, String>> {
    let table = resources::rows(resources::TABLE);
    let launched = cases.iter().flat_map(|case| &case.kernels);
    let of = |kernel: &String| {
        let columns = table.get(kernel.as_str())?.iter().filter(|(column, _)| **column != "kernel");
        Some((
            kernel.clone(),
            columns.map(|(column, cell)| ((*column).to_owned(), (*cell).to_owned())).collect(),
        ))
    };
    launched.filter_map(of).collect()
}

/// What a run gave, in few bytes.
pub fn entry(subject: &dyn Subject, gave: &Gave) -> Entry {
    Entry {
        name: subject.name(),
        data: subject.data(),
        instance: gave.instance.clone(),
        kernels: gave.kernels.clone(),
        outputs: gave.outputs.iter().map(output_entry).collect(),
        writes: gave.writes.clone(),
        checks: gave.checks.iter().map(check_entry).collect(),
    }
}

/// The bits of an output, in few bytes.
pub fn output_entry(output: &Output) -> OutputEntry {
    let bits = Bits::of(output);
    let value = |element| super::digest::value(bits.dtype, element);
    let unwritten = |element| element == bits.sentinel();
    let is_float = matches!(
        bits.dtype,
        safetensors::Dtype::BF16 | safetensors::Dtype::F32 | safetensors::Dtype::F8_E4M3
    );
    let stored = output.bytes.len() <= STORED;
    OutputEntry {
        name: output.name.to_owned(),
        dtype: output.dtype,
        shape: [bits.rows, bits.columns],
        hash: hash(&bits),
        unwritten: Places::of(&bits, unwritten),
        nan: Places::of(&bits, |element| is_float && !unwritten(element) && value(element).is_nan()),
        inf: Places::of(&bits, |element| is_float && value(element).is_infinite()),
        rows: if stored { String::new() } else { row_digests(&bits) },
        columns: if stored { String::new() } else { column_digests(&bits) },
        bits: stored.then(|| bits.hex()),
    }
}

fn check_entry(check: &Check) -> CheckEntry {
    CheckEntry { oracle: check.oracle.to_owned(), checked: check.checked as u64, errors: error_entry(check) }
}

/// The errors of all elements that a bound judges.
pub fn error_entry(check: &Check) -> Option<ErrorEntry> {
    let mut ratios = check.errors.ratios.clone();
    ratios.sort_unstable_by(f32::total_cmp);
    let last = ratios.len().checked_sub(1)?;
    let mean = ratios.iter().map(|&ratio| f64::from(ratio)).sum::<f64>() / ratios.len() as f64;
    Some(ErrorEntry {
        max: rounded(ratios[last].into()),
        p99: rounded(ratios[last * 99 / 100].into()),
        mean: rounded(mean),
        ulps: check.errors.ulps,
    })
}

/// To three digits: what a mathematical library of another host adds is none of ours.
fn rounded(x: f64) -> f64 {
    format!("{x:.2e}").parse().unwrap_or(x)
}

/// What `work` makes of each subject by so many workers, in the order of the subjects.
pub fn each<T: Send>(
    subjects: &[Box<dyn Subject + '_>],
    workers: usize,
    work: impl Fn(&dyn Subject, usize) -> T + Sync,
) -> Vec<T> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let one = |worker: usize| {
        while let Some((index, subject)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, subjects.get(index)?)))
        {
            let result = work(&**subject, worker);
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(index, result);
        }
    };
    thread::scope(|scope| {
        for worker in 0..workers.max(1) {
            let one = &one;
            scope.spawn(move || one(worker));
        }
    });
    results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect()
}
