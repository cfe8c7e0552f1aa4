//! The quantiser of weights.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::Quantize128x128Params;
use deepseek_kernels::table::quant::QUANTIZE_128X128;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{Quantize128x128, Quantize128x128Args, QuantizeSpec};
use deepseek_kernels::{DataFaults, Error, F8E4M3, Stream, bf16};
use oracles::quant::quantize_128x128;

use super::{QuantizerClass, Rule};
use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// A matrix `[rows, k]`, one scale per 128x128.
#[derive(Debug, Clone, Copy)]
pub struct Quantize128x128Case {
    pub rows: usize,
    pub k: usize,
    pub rule: Rule,
    pub class: QuantizerClass,
    /// Few rows differ: large operands are drawn in no time.
    pub repeated: bool,
    pub seed: u64,
}

impl Quantize128x128Case {
    /// Special rows, powers of two.
    pub const fn new((rows, k): (usize, usize)) -> Self {
        Self { rows, k, rule: Rule::POWER_OF_TWO, class: QuantizerClass::Special, repeated: false, seed: 1 }
    }

    /// With its inputs.
    pub fn problem(self) -> Quantize128x128Problem {
        Quantize128x128Problem {
            x: self.class.draw((self.rows, self.k), self.repeated, self.seed),
            case: self,
        }
    }
}

impl Case for Quantize128x128Case {
    fn operation(&self) -> &'static str {
        "quantize_128x128"
    }

    fn title(&self) -> String {
        format!("quantise 128x128, {}", self.rule.title())
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.k)
    }

    fn label(&self) -> String {
        format!("{}x{}{}", self.rows, self.k, self.rule.suffix())
    }

    fn data(&self) -> String {
        self.class.name().to_owned()
    }

    fn work(&self) -> Work {
        let scales = self.rows.div_ceil(128) * self.k.div_ceil(128);
        Work { flops: 0, bytes: (3 * self.rows * self.k + 4 * scales) as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A quantiser with its input.
#[derive(Debug, Clone)]
pub struct Quantize128x128Problem {
    pub case: Quantize128x128Case,
    pub x: Vec<bf16>,
}

impl Problem for Quantize128x128Problem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Quantize128x128Run::new(self, arena)?))
    }
}

/// A quantiser on a device.
pub struct Quantize128x128Run {
    problem: Arc<Quantize128x128Problem>,
    pub plan: Quantize128x128,
    pub operands: Quantize128x128Operands,
}

pub struct Quantize128x128Operands {
    x: Operand<bf16>,
    q: Operand<F8E4M3>,
    sf: Operand<f32>,
}

impl Quantize128x128Run {
    pub fn new(problem: Arc<Quantize128x128Problem>, arena: &mut Arena<'_>) -> Result<Self> {
        let Quantize128x128Case { rows, k, rule, .. } = problem.case;
        let plan = Quantize128x128::plan(arena.device(), QuantizeSpec::new(rows, k).rule(rule.rule()))?;
        let operands = Quantize128x128Operands {
            x: arena.input(&problem.x, (rows, k), Align(16))?,
            q: arena.output((rows, k), Align(8))?,
            sf: arena.output((rows.div_ceil(128), k.div_ceil(128)), Align(4))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl Quantize128x128Operands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<Quantize128x128Args<'_>, Error> {
        Ok(Quantize128x128Args { x: self.x.matrix()?, q: self.q.matrix_mut()?, sf: self.sf.blocks_mut()? })
    }
}

impl Prepared for Quantize128x128Run {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("q", &self.operands.q)?, Output::read("sf", &self.operands.sf)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let Quantize128x128Problem { case: Quantize128x128Case { rows, k, rule, .. }, ref x } = *self.problem;
        let expected = quantize_128x128(x, rows, k, k, rule.model())?;
        Ok(vec![
            self.operands.sf.equals("scales", "sf", &expected.sf)?,
            self.operands.q.equals("codes", "q", &expected.q)?,
        ])
    }

    fn faults(&self) -> DataFaults {
        super::nonfinite(&self.problem.x)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    Rule::ALL.map(traced_in).into()
}

fn traced_in(rule: Rule) -> Launch {
    let (n, k) = (150_u32, 200_u32);
    let params = Params::of::<Quantize128x128Params>()
        .u64(offset_of!(Quantize128x128Params, x), region(0))
        .u64(offset_of!(Quantize128x128Params, q), region(1))
        .u64(offset_of!(Quantize128x128Params, sf), region(2))
        .u64(offset_of!(Quantize128x128Params, error_words), region(3))
        .u64(offset_of!(Quantize128x128Params, x_pitch), 264)
        .u64(offset_of!(Quantize128x128Params, q_pitch), 272)
        .u64(offset_of!(Quantize128x128Params, sf_pitch), 5)
        .u32(offset_of!(Quantize128x128Params, n), n)
        .u32(offset_of!(Quantize128x128Params, k), k);
    let params = rule.trace(params, offset_of!(Quantize128x128Params, rule));
    fixed(&QUANTIZE_128X128, n.div_ceil(128) * k.div_ceil(128), params)
}

mod faults {
    use super::Quantize128x128Case;
    use crate::case::boxed;
    use crate::planted::{Trial, faults};
    use crate::quant::{QuantizerClass, Rule};

    const BLOCKS: Trial = Trial::Cases(|| boxed(CLASSES.map(blocks)));

    /// The formulas of a scale differ in few codes only.
    const CLASSES: [QuantizerClass; 2] = [QuantizerClass::Special, QuantizerClass::Borders];

    fn blocks(class: QuantizerClass) -> Quantize128x128Case {
        let rule = Rule::FP32;
        Quantize128x128Case { class, rule, seed: 6, ..Quantize128x128Case::new((150, 344)) }
    }

    faults! {
        rows_past_the_end: BLOCKS, "ldg_v4_u32_if(row < rows" => "ldg_v4_u32_if(true", ["outside", "scales: ", "read-only load of q"];
        columns_past_the_end: BLOCKS, "column < params.k ? params.n : 0" => "params.n", ["outside", "scales: ", "not ordered"];
        no_barrier_before_amax_is_shared: BLOCKS, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        multiplier_of_the_wrong_formula: BLOCKS,
            "? kE4m3Max / floored : 1.0f / scale" => "? 1.0f / scale : kE4m3Max / floored", ["codes: "];
        amax_of_the_last_rows: BLOCKS,
            "amax = max_of(amax, finite_amax(bf16_piece(x[i]).x));" => "amax = finite_amax(bf16_piece(x[i]).x);",
            ["scales: "];
        amax_of_one_warp: BLOCKS,
            "value = op(value, ptx::lds_f32(smem + warp * sizeof(float)))" => "", ["scales: "];
    }
}
