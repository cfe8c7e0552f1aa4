//! What was found.

use serde::Serialize;

use crate::case::{Case, Ran};
use crate::judge::Check;

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

impl Row {
    /// What a run of a case gave, or why it gave nothing.
    pub fn of_case(case: &dyn Case, ran: anyhow::Result<Ran>) -> Self {
        let (instance, seconds, checks) = match ran {
            Ok(Ran { instance, seconds, checks, .. }) => (instance, seconds, checks),
            Err(error) => (String::new(), None, vec![Check::failed("run", format!("{error:#}"))]),
        };
        Self {
            operation: case.title(),
            shape: case.shape(),
            instance,
            data: case.data(),
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

impl Report {
    /// Counts the checks.
    pub fn count(&mut self) {
        let checks = || self.rows.iter().flat_map(|row| &row.checks);
        self.failed = checks().filter(|check| check.failure.is_some()).count();
        self.passed = checks().count() - self.failed;
    }
}
