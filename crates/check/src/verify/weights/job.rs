//! One matrix of a model: quantised, multiplied, and both kinds of error measured.

use std::sync::Arc;

use deepseek_kernels::{Device, F8E4M3, bf16};
use oracles::gemm::{GemmClass, GemmInputs, Operands, Sample, reference};
use rayon::prelude::*;

use super::matrix::{Original, Trouble};
use super::scales::BLOCK;
use super::select::Stored;
use crate::case::{self, Problem, Ran};
use crate::data::activations;
use crate::gemm::fp8_gemm::{Fp8GemmCase, Fp8GemmProblem};
use crate::judge::{Check, sample};
use crate::memory::Memory;
use crate::quant::Rule;
use crate::quant::quantize_1x128::{Quantize1x128Case, Quantize1x128Problem};
use crate::quant::quantize_128x128::{Quantize128x128Case, Quantize128x128Problem};
use crate::verify::report::{MatrixReport, Row, matrix_name};
use crate::verify::runner::{Job, Outcome};
use crate::verify::shapes::Shape;

/// The work on a matrix, for each number of rows of activations.
pub fn jobs(matrix: Stored, rows: &[usize], seed: u64) -> Vec<Box<dyn Job>> {
    let matrix = Arc::new(matrix);
    let job = |&m| Box::new(MatrixJob { matrix: Arc::clone(&matrix), m, seed }) as Box<dyn Job>;
    rows.iter().map(job).collect()
}

struct MatrixJob {
    matrix: Arc<Stored>,
    m: usize,
    seed: u64,
}

/// A quantised operand, and what the judges say of it; nothing where it was stored so.
struct Quantised {
    q: Vec<F8E4M3>,
    sf: Vec<f32>,
    check: Option<Check>,
}

struct Measured {
    instance: String,
    seconds: Option<f64>,
    checks: Vec<Check>,
    quantisation_error: Option<f64>,
}

impl Job for MatrixJob {
    fn label(&self) -> String {
        format!("{} {}", matrix_name(&self.matrix.name, self.matrix.expert), self.shape())
    }

    fn cost(&self) -> u128 {
        let (n, k) = self.matrix.padded();
        self.m.max(64) as u128 * n as u128 * k as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let measured = Original::read(&self.matrix).and_then(|original| {
            let measured = self.measure(device, &original).map_err(Trouble::Failed)?;
            Ok((measured, self.note(&original)))
        });
        match measured {
            Ok((measured, note)) => Outcome::Rows(vec![self.row(measured, note)]),
            Err(Trouble::Unfit(reason)) => Outcome::Unused(self.matrix.unused(reason)),
            Err(Trouble::Failed(failure)) => {
                let checks = vec![Check::failed("run", failure)];
                let nothing =
                    Measured { instance: String::new(), seconds: None, checks, quantisation_error: None };
                Outcome::Rows(vec![self.row(nothing, None)])
            }
        }
    }
}

impl MatrixJob {
    fn shape(&self) -> Shape {
        let (n, k) = self.matrix.padded();
        Shape { m: self.m, n: Some(n), k }
    }

    fn measure(&self, device: &Device, original: &Original) -> Result<Measured, String> {
        let ((n, k), m) = (self.matrix.padded(), self.m);
        let x = activations(m, self.matrix.k, k, self.seed);
        let case = Quantize1x128Case { rule: Rule::FP32, ..Quantize1x128Case::new((m, k)) };
        let quantize = Arc::new(Quantize1x128Problem { case, x });
        let a = self.quantised("codes of a", quantize.clone(), device)?;
        let weights = self.weights(device, original)?;
        let mut checks: Vec<Check> = a.check.into_iter().chain(weights.check).collect();

        let inputs = GemmInputs { m, n, k, parts: 1, a: a.q, sfa: a.sf, b: weights.q, sfb: weights.sf };
        let case = Fp8GemmCase { class: GemmClass::Normal, seed: self.seed, ..Fp8GemmCase::new((m, n, k)) };
        let problem = Arc::new(Fp8GemmProblem::new(case, inputs));
        let ran = self.run(problem.clone(), device)?;
        checks.extend(ran.checks);
        let operands = problem.inputs.operands().map_err(text)?;
        Ok(Measured {
            instance: ran.instance,
            seconds: ran.seconds,
            checks,
            quantisation_error: Some(self.quantisation_error(&operands, &quantize.x, original)),
        })
    }

    /// FP8 is used as stored; anything else is quantised on the device.
    fn weights(&self, device: &Device, original: &Original) -> Result<Quantised, String> {
        let (n, k) = self.matrix.padded();
        if let Some((q, sf)) = original.to_fp8((n, k)) {
            return Ok(Quantised { q, sf, check: None });
        }
        let case = Quantize128x128Case { rule: Rule::FP32, ..Quantize128x128Case::new((n, k)) };
        let problem = Quantize128x128Problem { case, x: original.to_bf16((n, k)) };
        self.quantised("codes of b", Arc::new(problem), device)
    }

    /// Codes and scales, with what the judges say of them as one word.
    fn quantised(
        &self,
        oracle: &'static str,
        problem: Arc<dyn Problem>,
        device: &Device,
    ) -> Result<Quantised, String> {
        let Ran { outputs, checks, .. } = self.run(problem, device)?;
        let check = checks.into_iter().reduce(Check::and).map(|check| Check { oracle, ..check });
        Ok(Quantised { q: outputs[0].values(), sf: outputs[1].values(), check })
    }

    fn run(&self, problem: Arc<dyn Problem>, device: &Device) -> Result<Ran, String> {
        case::run(problem, device, Memory::Poisoned(self.seed)).map_err(|error| format!("{error:#}"))
    }

    /// `||Q - O|| / ||O||` of the products of the quantised and of the original operands, on a sample of D.
    fn quantisation_error(&self, operands: &Operands, x: &[bf16], original: &Original) -> f64 {
        /// Products in f64, well below a second.
        const BUDGET: usize = 1 << 28;
        let (m, _, padded) = operands.shape();
        let Sample { rows, columns } = sample((m, self.matrix.n, self.matrix.k), BUDGET, self.seed);
        let quantised = reference(operands, &Sample { rows: rows.clone(), columns: columns.clone() });
        let per_column = |(index, &column): (usize, &usize)| {
            let weights = original.row(column);
            let (mut error, mut norm) = (0.0, 0.0);
            for (i, row) in rows.iter().enumerate() {
                let x = &x[row * padded..][..weights.len()];
                let exact: f64 = x.iter().zip(&weights).map(|(x, w)| x.to_f64() * w).sum();
                error += (quantised[i * columns.len() + index] - exact).powi(2);
                norm += exact.powi(2);
            }
            (error, norm)
        };
        let sums = columns.par_iter().enumerate().map(per_column).collect::<Vec<_>>();
        let (error, norm) = sums.into_iter().fold((0.0, 0.0), |sum, add| (sum.0 + add.0, sum.1 + add.1));
        if norm == 0.0 { 0.0 } else { (error / norm).sqrt() }
    }

    /// What was done to the matrix, or was not.
    fn note(&self, original: &Original) -> Option<String> {
        let Stored { n, k, .. } = *self.matrix;
        let padded = (self.matrix.padded() != (n, k)).then(|| format!("padded from [{n}, {k}]"));
        let stored = original.block().map(|block| {
            let [rows, columns] = block;
            match block == [n, k].map(|length| length.min(BLOCK)) || block == [BLOCK; 2] {
                true => "FP8 as stored".to_owned(),
                false if block == [n, k] => "FP8 as stored, one scale".to_owned(),
                false => format!("FP8 as stored, scales of {rows}x{columns}"),
            }
        });
        let notes: Vec<String> = padded.into_iter().chain(stored).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    fn row(&self, measured: Measured, note: Option<String>) -> Row {
        let Stored { name, info, expert, n, k, .. } = &*self.matrix;
        Row {
            operation: "quantise and multiply".to_owned(),
            shape: self.shape().to_string(),
            instance: measured.instance,
            data: "activations".to_owned(),
            checks: measured.checks,
            seconds: measured.seconds,
            matrix: Some(MatrixReport {
                tensor: name.clone(),
                expert: *expert,
                dtype: info.dtype.to_string(),
                tensor_shape: [*n, *k],
                quantisation_error: measured.quantisation_error,
                note,
            }),
        }
    }
}

/// An error as a line of the report.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
