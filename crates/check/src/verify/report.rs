//! What was found.

use oracles::verdict::Verdict;
use serde::Serialize;

/// Everything about one run of the program.
#[derive(Serialize)]
pub struct Report {
    #[serde(rename = "crate")]
    pub package: &'static str,
    pub version: &'static str,
    pub device: DeviceReport,
    pub seed: u64,
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
    /// Tensors of the file that were asked for and not used.
    pub unused: Vec<Unused>,
    pub passed: usize,
    pub failed: usize,
}

#[derive(Serialize)]
pub struct DeviceReport {
    pub name: String,
    pub kind: &'static str,
    pub multiprocessors: u32,
}

/// One launch, or the launches of one matrix, and what the oracles say of it.
#[derive(Serialize)]
pub struct Row {
    pub operation: String,
    pub shape: String,
    /// Kernel that ran.
    pub instance: String,
    /// The class of the inputs.
    pub data: String,
    pub checks: Vec<Check>,
    /// Of the launch alone on the emulator, first use included; none on a GPU.
    pub seconds: Option<f64>,
    #[serde(flatten)]
    pub matrix: Option<MatrixReport>,
}

/// Seconds of a launch on the emulator and what the oracles say of it, or why there is neither.
pub type Checked = Result<(Option<f64>, Vec<Check>), String>;

impl Row {
    /// Of an operation on inputs of the class `data`.
    pub fn of(data: &str, operation: &str, shape: String, instance: &str, checked: Checked) -> Self {
        let (seconds, checks) = checked.unwrap_or_else(|failure| (None, vec![Check::failed("run", failure)]));
        Self {
            operation: operation.to_owned(),
            shape,
            instance: instance.to_owned(),
            data: data.to_owned(),
            checks,
            seconds,
            matrix: None,
        }
    }
}

/// What only a matrix of a file has.
#[derive(Serialize)]
pub struct MatrixReport {
    pub tensor: String,
    pub dtype: String,
    /// Shape in the file.
    pub tensor_shape: [usize; 2],
    /// Relative RMS of the product of quantised operands against that of the originals, both in f64.
    pub quantisation_error: Option<f64>,
    pub note: Option<String>,
}

/// A tensor that was not used.
#[derive(Serialize)]
pub struct Unused {
    pub tensor: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub reason: String,
}

/// The judgement of one oracle.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub oracle: &'static str,
    /// Elements looked at.
    pub checked: usize,
    /// Rows and columns they are the pairs of, when they are a sample.
    pub sample: Option<[usize; 2]>,
    /// Largest error in units of the bound: 0 for equal bits; none where a value is not finite or nothing ran.
    pub worst: Option<f64>,
    /// What is wrong.
    pub failure: Option<String>,
}

impl Check {
    pub fn of(oracle: &'static str, verdict: &Verdict, sample: Option<[usize; 2]>) -> Self {
        Self {
            oracle,
            checked: verdict.checked,
            sample,
            worst: Some(verdict.worst).filter(|worst| worst.is_finite()),
            failure: (!verdict.accepted()).then(|| verdict.to_string()),
        }
    }

    /// Something that should equal something else, in all of `checked` elements; `failure` says where it does not.
    pub fn equal(oracle: &'static str, checked: usize, failure: Option<String>) -> Self {
        Self { oracle, checked, sample: None, worst: failure.is_none().then_some(0.0), failure }
    }

    /// The same oracle's judgement of two parts of a result.
    pub fn and(self, other: Self) -> Self {
        Self {
            oracle: self.oracle,
            checked: self.checked + other.checked,
            sample: self.sample.max(other.sample),
            worst: self.worst.zip(other.worst).map(|(a, b)| a.max(b)),
            failure: self.failure.or(other.failure),
        }
    }

    /// It did not run, or could not be judged.
    pub fn failed(oracle: &'static str, failure: String) -> Self {
        Self { oracle, checked: 0, sample: None, worst: None, failure: Some(failure) }
    }
}

impl Report {
    /// Counts the checks.
    pub fn count(&mut self) {
        let checks = || self.rows.iter().flat_map(|row| &row.checks);
        self.failed = checks().filter(|check| check.failure.is_some()).count();
        self.passed = checks().count() - self.failed;
    }
}
