//! What was found.

use std::collections::HashSet;

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
    /// Tensors of the model that were asked for and not used.
    pub unused: Vec<Unused>,
    pub passed: usize,
    pub failed: usize,
    /// FP8 matrices that were asked for, those of stacks each, and how many of them something was checked of.
    pub fp8_matrices: usize,
    pub fp8_checked: usize,
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
    /// Its place in a stack.
    pub expert: Option<usize>,
    pub dtype: String,
    /// Shape in the file.
    pub tensor_shape: [usize; 2],
    /// Relative RMS of the product of quantised operands against that of the originals, both in f64.
    pub quantisation_error: Option<f64>,
    pub note: Option<String>,
}

/// A tensor that was not used, or some matrices of a stack.
#[derive(Clone, Serialize)]
pub struct Unused {
    pub tensor: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Which ones of a stack, where it is not all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<usize>,
    pub reason: String,
    /// How many FP8 matrices these are.
    pub fp8_matrices: usize,
}

/// A matrix as people write it: `w[3]` for one of a stack.
pub fn matrix_name(tensor: &str, expert: Option<usize>) -> String {
    expert.map_or(tensor.to_owned(), |expert| format!("{tensor}[{expert}]"))
}

impl Report {
    /// A matrix that was not used, once for all rows of activations and with the others of its stack.
    pub fn add_unused(&mut self, unused: Unused) {
        let mut of_tensor = self.unused.iter_mut().rev().take_while(|other| other.tensor == unused.tensor);
        match of_tensor.find(|other| other.reason == unused.reason) {
            None => self.unused.push(unused),
            Some(other) if unused.experts.iter().all(|expert| other.experts.contains(expert)) => {}
            Some(other) => {
                other.experts.extend(unused.experts);
                other.fp8_matrices += unused.fp8_matrices;
            }
        }
    }

    /// Counts the checks, and the FP8 matrices.
    pub fn count(&mut self) {
        let checks = || self.rows.iter().flat_map(|row| &row.checks);
        self.failed = checks().filter(|check| check.failure.is_some()).count();
        self.passed = checks().count() - self.failed;

        let matrices = |checked: bool| {
            let rows =
                self.rows.iter().filter(|row| !checked || row.checks.iter().any(|check| check.checked > 0));
            let fp8 =
                rows.filter_map(|row| row.matrix.as_ref()).filter(|matrix| matrix.dtype.starts_with("F8_"));
            fp8.map(|matrix| (&matrix.tensor, matrix.expert)).collect::<HashSet<_>>().len()
        };
        self.fp8_checked = matrices(true);
        self.fp8_matrices =
            matrices(false) + self.unused.iter().map(|unused| unused.fp8_matrices).sum::<usize>();
    }
}
