//! The transposition of scales.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::TransposeScalesParams;
use deepseek_kernels::table::quant::TRANSPOSE_SCALES;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{TransposeScales, TransposeScalesArgs, TransposeScalesSpec};
use deepseek_kernels::{Error, Stream};

use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

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
        let sf = (0..self.rows * (self.k.div_ceil(128))).map(|i| i as f32).collect();
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
        Work { flops: 0, bytes: (8 * self.rows * (self.k.div_ceil(128))) as u64 }
    }

    /// Its scales are counted.
    fn reseeded(&self, _: u64) -> Box<dyn Case> {
        Box::new(*self)
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
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(TransposeScalesRun::new(self, arena)?))
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

impl TransposeScalesRun {
    pub fn new(problem: Arc<TransposeScalesProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let TransposeScalesCase { rows, k } = problem.case;
        let plan = TransposeScales::plan(arena.device(), TransposeScalesSpec::new(rows, k))?;
        let operands = TransposeScalesOperands {
            sf: arena.input(&problem.sf, (rows, k.div_ceil(128)), Align(4))?,
            out: arena.output((k.div_ceil(128), rows), Align(4))?,
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
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let TransposeScalesProblem { case, sf } = &*self.problem;
        let columns = case.k.div_ceil(128);
        let of_column = |column| sf.iter().skip(column).step_by(columns);
        let expected: Vec<f32> = (0..columns).flat_map(of_column).copied().collect();
        Ok(vec![self.operands.out.equals("scales", "out", &expected)?])
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let (m, k_blocks) = (45_u32, 40_u32);
    let params = Params::of::<TransposeScalesParams>()
        .u64(offset_of!(TransposeScalesParams, sf), region(0))
        .u64(offset_of!(TransposeScalesParams, out), region(1))
        .u64(offset_of!(TransposeScalesParams, sf_pitch), 43)
        .u64(offset_of!(TransposeScalesParams, out_pitch), 48)
        .u32(offset_of!(TransposeScalesParams, m), m)
        .u32(offset_of!(TransposeScalesParams, k_blocks), k_blocks);
    let grid = m.div_ceil(32) * k_blocks.div_ceil(32);
    vec![fixed(&TRANSPOSE_SCALES, grid, params)]
}

mod faults {
    use super::TransposeScalesCase;
    use crate::case::boxed;
    use crate::planted::{Trial, faults};

    const TRANSPOSE: Trial = Trial::Cases(|| boxed([TransposeScalesCase::new((70, 40 * 128))]));

    faults! {
        no_barrier_before_the_transposed_read: TRANSPOSE,
            "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        transposed_tile_with_a_wrong_pitch: TRANSPOSE,
            "(x * kPitch + i)" => "(x * kTile + i)",
            ["scales: ", "nothing has written"];
    }
}
