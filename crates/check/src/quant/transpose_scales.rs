//! The transposition of scales.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{MMajor, RowMajor, Scales1x128, Scales1x128Mut, TransposeScales};
use deepseek_kernels::{Device, Error, Stream};

use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Memory, Operand, Output, Rows};

/// The scales of a matrix `[rows, k]`, `[rows, k/128]` to `[k/128, rows]`, no two of them equal.
#[derive(Debug, Clone, Copy)]
pub struct TransposeScalesCase {
    pub rows: usize,
    pub k: usize,
}

impl TransposeScalesCase {
    pub const fn new((rows, k): (usize, usize)) -> Self {
        Self { rows, k }
    }

    /// With its inputs.
    pub fn problem(self) -> TransposeScalesProblem {
        let sf = (0..self.rows * (self.k / 128)).map(|i| i as f32).collect();
        TransposeScalesProblem { case: self, sf }
    }
}

impl Case for TransposeScalesCase {
    fn operation(&self) -> &'static str {
        "transpose_scales"
    }

    fn title(&self) -> String {
        "transpose scales".to_owned()
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.k)
    }

    fn data(&self) -> String {
        "distinct".to_owned()
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (8 * self.rows * (self.k / 128)) as u64 }
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// Scales to be transposed.
#[derive(Debug, Clone)]
pub struct TransposeScalesProblem {
    pub case: TransposeScalesCase,
    pub sf: Vec<f32>,
}

impl Problem for TransposeScalesProblem {
    fn prepare(self: Arc<Self>, device: &Device, memory: Memory) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(TransposeScalesRun::new(self, device, memory)?))
    }
}

/// A transposition on a device.
pub struct TransposeScalesRun {
    problem: Arc<TransposeScalesProblem>,
    pub plan: TransposeScales,
    pub operands: TransposeScalesOperands,
}

pub struct TransposeScalesOperands {
    sf: Operand<f32>,
    out: Operand<f32>,
}

/// What a plan is given.
pub struct TransposeScalesArgs<'a> {
    pub sf: Scales1x128<'a, RowMajor>,
    pub out: Scales1x128Mut<'a, MMajor>,
}

impl TransposeScalesArgs<'_> {
    /// Enqueues the plan.
    ///
    /// # Errors
    /// Of the plan.
    pub fn run(self, plan: &TransposeScales, stream: Stream<'_>) -> Result<(), Error> {
        plan.run(stream, self.sf, self.out)
    }
}

impl TransposeScalesRun {
    pub fn new(problem: Arc<TransposeScalesProblem>, device: &Device, memory: Memory) -> Result<Self> {
        let TransposeScalesCase { rows, k } = problem.case;
        let plan = TransposeScales::plan(device, rows, k)?;
        let mut arena = Arena::new(device, memory);
        let operands = TransposeScalesOperands {
            sf: arena.input(&problem.sf, (rows, k / 128), Rows::Aligned(4))?,
            out: arena.output((k / 128, rows), Rows::Aligned(4))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl TransposeScalesOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<TransposeScalesArgs<'_>, Error> {
        Ok(TransposeScalesArgs { sf: self.sf.row_major()?, out: self.out.m_major_mut()? })
    }
}

impl Prepared for TransposeScalesRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.operands.args()?.run(&self.plan, stream)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let TransposeScalesProblem { case, sf } = &*self.problem;
        let columns = case.k / 128;
        let of_column = |column| sf.iter().skip(column).step_by(columns);
        let expected: Vec<f32> = (0..columns).flat_map(of_column).copied().collect();
        Ok(vec![self.operands.out.equals("scales", "out", &expected)?])
    }
}
