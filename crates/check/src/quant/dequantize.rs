//! The dequantiser, with scales of either kind and layout.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::DequantizeParams;
use deepseek_kernels::table::quant::{DEQUANTIZE, DEQUANTIZE_ELEMENTS};
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{
    Dequantize1x128, Dequantize1x128Args, Dequantize128x128, Dequantize128x128Args, DequantizeSpec,
};
use deepseek_kernels::{Error, F8E4M3, Stream, bf16};
use oracles::gemm::GemmClass;
use oracles::quant::dequantize;

use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// Which elements share a scale, and how scales lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// One per 1x128, `[ceil(k/128), rows]`.
    MMajor,
    /// One per 1x128, `[rows, ceil(k/128)]`.
    RowMajor,
    /// One per 128x128.
    Square,
}

/// A matrix `[rows, k]` of codes.
#[derive(Debug, Clone, Copy)]
pub struct DequantizeCase {
    pub rows: usize,
    pub k: usize,
    pub blocks: Blocks,
    /// Of B where blocks are square, else of A.
    pub class: GemmClass,
    pub seed: u64,
}

impl DequantizeCase {
    /// All codes but NaN, weights.
    pub const fn new((rows, k): (usize, usize)) -> Self {
        Self { rows, k, blocks: Blocks::Square, class: GemmClass::Codes, seed: 1 }
    }

    /// With its inputs.
    ///
    /// # Errors
    /// None.
    pub fn problem(self) -> Result<DequantizeProblem> {
        let Self { rows, k, blocks, class, seed } = self;
        let (q, sf) = match blocks {
            Blocks::Square => {
                let drawn = class.generate((1, rows, k), seed)?;
                (drawn.b, drawn.sfb)
            }
            Blocks::MMajor | Blocks::RowMajor => {
                let drawn = class.generate((rows, 1, k), seed)?;
                let by_row = |row| drawn.sfa.iter().skip(row).step_by(rows).copied();
                (drawn.a, (0..rows).flat_map(by_row).collect())
            }
        };
        Ok(DequantizeProblem { case: self, q, sf })
    }
}

impl Case for DequantizeCase {
    fn operation(&self) -> &'static str {
        "dequantize"
    }

    fn title(&self) -> String {
        let blocks = match self.blocks {
            Blocks::MMajor => "1x128 [k/128, m]",
            Blocks::RowMajor => "1x128 [m, k/128]",
            Blocks::Square => "128x128",
        };
        format!("dequantise {blocks}")
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.k)
    }

    fn label(&self) -> String {
        let blocks = match self.blocks {
            Blocks::MMajor => "_1x128",
            Blocks::RowMajor => "_1x128_row_major",
            Blocks::Square => "",
        };
        format!("{}x{}{blocks}", self.rows, self.k)
    }

    fn data(&self) -> String {
        self.class.to_string()
    }

    fn work(&self) -> Work {
        let elements = self.rows * self.k;
        Work { flops: 0, bytes: (3 * elements) as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// Codes and their scales, those of a row after each other.
#[derive(Debug, Clone)]
pub struct DequantizeProblem {
    pub case: DequantizeCase,
    pub q: Vec<F8E4M3>,
    pub sf: Vec<f32>,
}

impl DequantizeProblem {
    fn expected(&self) -> Result<Vec<bf16>> {
        let scale_rows = if self.case.blocks == Blocks::Square { 128 } else { 1 };
        Ok(dequantize(&self.q, (self.case.rows, self.case.k), &self.sf, scale_rows)?)
    }
}

impl Problem for DequantizeProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(DequantizeRun::new(self, arena)?))
    }
}

/// Of either kind.
#[derive(Debug)]
pub enum Plan {
    Rows(Dequantize1x128),
    Square(Dequantize128x128),
}

/// A dequantiser on a device.
pub struct DequantizeRun {
    problem: Arc<DequantizeProblem>,
    plan: Plan,
    q: Operand<F8E4M3>,
    sf: Operand<f32>,
    x: Operand<bf16>,
}

impl DequantizeRun {
    fn new(problem: Arc<DequantizeProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let DequantizeCase { rows, k, blocks, .. } = problem.case;
        let (spec, groups) = (DequantizeSpec::new(rows, k), k.div_ceil(128));
        let plan = match blocks {
            Blocks::Square => Plan::Square(Dequantize128x128::plan(arena.device(), spec)?),
            Blocks::MMajor | Blocks::RowMajor => Plan::Rows(Dequantize1x128::plan(arena.device(), spec)?),
        };
        let m_major: Vec<f32> =
            (0..groups).flat_map(|g| problem.sf.iter().skip(g).step_by(groups.max(1))).copied().collect();
        let sf = match blocks {
            Blocks::MMajor => arena.input(&m_major, (groups, rows), Align(4))?,
            Blocks::RowMajor => arena.input(&problem.sf, (rows, groups), Align(4))?,
            Blocks::Square => arena.input(&problem.sf, (rows.div_ceil(128), groups), Align(4))?,
        };
        let (q, x) = (arena.input(&problem.q, (rows, k), Align(16))?, arena.output((rows, k), Align(16))?);
        Ok(Self { problem, plan, q, sf, x })
    }
}

impl Prepared for DequantizeRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        let (q, x) = (self.q.matrix()?, self.x.matrix_mut()?);
        match (&self.plan, self.problem.case.blocks) {
            (Plan::Square(plan), _) => {
                plan.run(stream, Dequantize128x128Args { q, sf: self.sf.blocks()?, x })
            }
            (Plan::Rows(plan), Blocks::RowMajor) => {
                plan.run(stream, Dequantize1x128Args { q, sf: self.sf.row_major()?, x })
            }
            (Plan::Rows(plan), _) => plan.run(stream, Dequantize1x128Args { q, sf: self.sf.m_major()?, x }),
        }
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("x", &self.x)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        Ok(vec![self.x.equals("values", "x", &self.problem.expected()?)?])
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    [(1, 1, 48), (128, 5, 1)].map(traced_with).into()
}

fn traced_with((scale_rows, row_stride, group_stride): (u32, u64, u64)) -> Launch {
    let (m, k) = (45_u32, 304_u32);
    let params = Params::of::<DequantizeParams>()
        .u64(offset_of!(DequantizeParams, q), region(0))
        .u64(offset_of!(DequantizeParams, sf), region(1))
        .u64(offset_of!(DequantizeParams, x), region(2))
        .u64(offset_of!(DequantizeParams, q_pitch), 320)
        .u64(offset_of!(DequantizeParams, x_pitch), 312)
        .u64(offset_of!(DequantizeParams, sf_row_stride), row_stride)
        .u64(offset_of!(DequantizeParams, sf_group_stride), group_stride)
        .u32(offset_of!(DequantizeParams, m), m)
        .u32(offset_of!(DequantizeParams, k), k)
        .u32(offset_of!(DequantizeParams, scale_rows), scale_rows);
    let grid = (m * k / DEQUANTIZE_ELEMENTS).div_ceil(DEQUANTIZE.threads);
    fixed(&DEQUANTIZE, grid, params)
}

mod faults {
    use super::{Blocks, DequantizeCase};
    use crate::case::boxed;
    use crate::planted::{Trial, faults};

    const DEQUANTIZE: Trial = Trial::Cases(|| {
        let all = [Blocks::MMajor, Blocks::RowMajor, Blocks::Square];
        boxed(all.map(|blocks| DequantizeCase { blocks, ..DequantizeCase::new((150, 304)) }))
    });

    faults! {
        loaded_before_the_grids_ahead_have_ended: DEQUANTIZE,
            "void dequantize_kernel ... enter_grid();" => "",
            "store_bf16_piece(gX, dequantized_piece" => "enter_grid(); store_bf16_piece(gX, dequantized_piece",
            ["global load before griddepcontrol.wait: a grid ahead"];
        rows_past_the_end_dequantised: DEQUANTIZE, "if (row >= params.m) return;" => "", ["outside"];
        a_scale_a_row_of_square_blocks: DEQUANTIZE, "row / params.scale_rows" => "row", ["values: ", "outside"];
        the_scale_of_the_first_block: DEQUANTIZE, "column / kQuantizeBlock * params" => "0 * params", ["values: "];
        codes_of_a_pair_exchanged: DEQUANTIZE,
            "piece.x[2 * i] = x[i].lo" => "piece.x[2 * i] = x[i].hi", ["values: "];
        halves_exchanged: DEQUANTIZE,
            "dequantized_piece(codes.z, codes.w" => "dequantized_piece(codes.x, codes.y", ["values: "];
    }
}
