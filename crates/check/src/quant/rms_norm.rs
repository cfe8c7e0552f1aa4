//! RMSNorm, with and without a residual, to BF16 and to codes.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::{NORM_ROUND_EACH_STEP, NORM_ROUND_ONCE, RmsNormParams};
use deepseek_kernels::table::quant::RMS_NORM;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{NormRounding, RmsNorm, RmsNormArgs, RmsNormOut, RmsNormSpec};
use deepseek_kernels::{DataFaults, Error, F8E4M3, Stream, bf16};
use oracles::quant::{self as model, quantize_values};

use super::Rule;
use crate::case::{Case, Prepared, Problem, Work};
use crate::data::{activations, repeated, weights};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// What a norm writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormOutput {
    Bf16,
    /// Codes, with scales chosen so.
    Fp8(Rule),
}

/// Rows behind a layer, normalised.
#[derive(Debug, Clone, Copy)]
pub struct RmsNormCase {
    pub rows: usize,
    pub hidden: usize,
    pub eps: f32,
    pub rounding: NormRounding,
    pub residual: bool,
    pub output: NormOutput,
    /// Few rows differ: large operands are drawn in no time.
    pub repeated: bool,
    pub seed: u64,
}

/// DeepSeek-V3's.
const EPS: f32 = 1e-6;
/// Rows that differ: a prime.
const DRAWN: usize = 61;
/// Rows of a brief look.
const BRIEF: usize = 4;

impl RmsNormCase {
    /// With a residual, to BF16, rounded once.
    pub const fn new((rows, hidden): (usize, usize)) -> Self {
        Self {
            rows,
            hidden,
            eps: EPS,
            rounding: NormRounding::Once,
            residual: true,
            output: NormOutput::Bf16,
            repeated: false,
            seed: 1,
        }
    }

    fn spec(&self) -> RmsNormSpec {
        let spec = RmsNormSpec::new(self.rows, self.hidden, self.eps).rounding(self.rounding);
        match self.output {
            NormOutput::Bf16 => spec,
            NormOutput::Fp8(rule) => spec.rule(rule.rule()),
        }
    }

    /// With its inputs.
    pub fn problem(self) -> RmsNormProblem {
        let Self { rows, hidden, repeated: few, seed, .. } = self;
        let draw = |seed| {
            let drawn = if few { rows.min(DRAWN) } else { rows };
            repeated(&activations(drawn, hidden, hidden, seed), hidden, rows)
        };
        // Around 1, as a trained norm's gain is.
        let gain = |w: &bf16| bf16::from_f32(1.0 + 10.0 * w.to_f32());
        RmsNormProblem {
            case: self,
            x: draw(seed),
            residual: self.residual.then(|| draw(seed + 1)),
            weight: weights(1, hidden, seed + 2).iter().map(gain).collect(),
        }
    }
}

impl Case for RmsNormCase {
    fn operation(&self) -> &'static str {
        "rms_norm"
    }

    fn title(&self) -> String {
        let residual = if self.residual { ", residual" } else { "" };
        let output = match self.output {
            NormOutput::Bf16 => "BF16".to_owned(),
            NormOutput::Fp8(rule) => format!("FP8, {}", rule.title()),
        };
        format!("RMSNorm{residual} to {output}")
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.hidden)
    }

    fn label(&self) -> String {
        let output = match self.output {
            NormOutput::Bf16 => "_bf16".to_owned(),
            NormOutput::Fp8(rule) => format!("_fp8{}", rule.suffix()),
        };
        let residual = if self.residual { "_residual" } else { "" };
        let rounding = if self.rounding == NormRounding::EachStep { "_each_step" } else { "" };
        format!("{}x{}{output}{residual}{rounding}", self.rows, self.hidden)
    }

    fn data(&self) -> String {
        "activations".to_owned()
    }

    fn work(&self) -> Work {
        let elements = self.rows * self.hidden;
        let residual = if self.residual { 4 * elements } else { 0 };
        let output = match self.output {
            NormOutput::Bf16 => 2 * elements,
            NormOutput::Fp8(_) => elements + elements / 32,
        };
        Work { flops: 0, bytes: (2 * elements + residual + output + 2 * self.hidden) as u64 }
    }

    /// The sum replaces the residual.
    fn repeatable(&self) -> bool {
        !self.residual
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A norm with its inputs.
#[derive(Debug, Clone)]
pub struct RmsNormProblem {
    pub case: RmsNormCase,
    pub x: Vec<bf16>,
    pub residual: Option<Vec<bf16>>,
    pub weight: Vec<bf16>,
}

impl RmsNormProblem {
    /// What is normalised, and the new residual.
    fn sum(&self) -> Vec<bf16> {
        model::RmsNorm::sum(&self.x, self.residual.as_deref())
    }

    fn model(&self) -> model::RmsNorm {
        let rounding = match self.case.rounding {
            NormRounding::Once => model::NormRounding::Once,
            NormRounding::EachStep => model::NormRounding::EachStep,
        };
        model::RmsNorm { hidden: self.case.hidden, eps: self.case.eps, rounding }
    }
}

impl Problem for RmsNormProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(RmsNormRun::new(self, arena)?))
    }
}

/// A norm on a device.
pub struct RmsNormRun {
    problem: Arc<RmsNormProblem>,
    pub plan: RmsNorm,
    pub operands: RmsNormOperands,
}

pub struct RmsNormOperands {
    x: Operand<bf16>,
    residual: Option<Operand<bf16>>,
    weight: Operand<bf16>,
    out: Out,
}

enum Out {
    Bf16(Operand<bf16>),
    Fp8 { q: Operand<F8E4M3>, sf: Operand<f32>, rule: Rule },
}

impl RmsNormRun {
    pub fn new(problem: Arc<RmsNormProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let RmsNormCase { rows, hidden, output, .. } = problem.case;
        let plan = RmsNorm::plan(arena.device(), problem.case.spec())?;
        let (shape, aligned) = ((rows, hidden), Align(16));
        let operands = RmsNormOperands {
            x: arena.input(&problem.x, shape, aligned)?,
            residual: problem.residual.as_ref().map(|r| arena.in_out(r, shape, aligned)).transpose()?,
            weight: arena.input(&problem.weight, (1, hidden), aligned)?,
            out: match output {
                NormOutput::Bf16 => Out::Bf16(arena.output(shape, aligned)?),
                NormOutput::Fp8(rule) => Out::Fp8 {
                    rule,
                    q: arena.output(shape, Align(8))?,
                    sf: arena.output((hidden.div_ceil(128), rows), Align(4))?,
                },
            },
        };
        Ok(Self { problem, plan, operands })
    }

    /// By the bits of the reference, and, for these may have the crate's own mistakes, by the bound of any correct norm.
    fn judge_bf16(&self, out: &Operand<bf16>, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let RmsNormCase { rows, hidden, .. } = self.problem.case;
        let (h, norm, weight) = (self.problem.sum(), self.problem.model(), &self.problem.weight);
        let looked_at = if scrutiny == Scrutiny::Brief { rows.min(BRIEF) } else { rows };
        let sample = (looked_at < rows).then_some([looked_at, hidden]);
        let got = out.values()?;
        let verdict = norm.check(&h[..looked_at * hidden], weight, &got[..looked_at * hidden])?;
        let mut checks = vec![out.written("out")?, Check::of("bound", &verdict, sample)];
        if scrutiny == Scrutiny::Thorough {
            let expected: Vec<bf16> = norm.values(&h, weight)?.into_iter().map(bf16::from_f32).collect();
            checks.push(out.equals("bits", "out", &expected)?);
        }
        Ok(checks)
    }

    fn judge_codes(&self, (q, sf): (&Operand<F8E4M3>, &Operand<f32>), rule: Rule) -> Result<Vec<Check>> {
        let RmsNormCase { rows, hidden, .. } = self.problem.case;
        let y = self.problem.model().values(&self.problem.sum(), &self.problem.weight)?;
        let row = |row: usize| y[row * hidden..][..hidden].to_vec();
        let expected = quantize_values(rows, hidden, rule.model(), row);
        Ok(vec![sf.equals("scales", "sf", &expected.sf)?, q.equals("codes", "q", &expected.q)?])
    }
}

impl RmsNormOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<RmsNormArgs<'_>, Error> {
        Ok(RmsNormArgs {
            x: self.x.matrix()?,
            residual: self.residual.as_mut().map(Operand::matrix_mut).transpose()?,
            weight: self.weight.vector()?,
            out: match &mut self.out {
                Out::Bf16(out) => RmsNormOut::Bf16(out.matrix_mut()?),
                Out::Fp8 { q, sf, .. } => RmsNormOut::Fp8 { q: q.matrix_mut()?, sf: sf.m_major_mut()? },
            },
        })
    }
}

impl Prepared for RmsNormRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        let mut outputs = match &self.operands.out {
            Out::Bf16(out) => vec![Output::read("out", out)?],
            Out::Fp8 { q, sf, .. } => vec![Output::read("q", q)?, Output::read("sf", sf)?],
        };
        if let Some(residual) = &self.operands.residual {
            outputs.push(Output::read("residual", residual)?);
        }
        Ok(outputs)
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let mut checks = match &self.operands.out {
            Out::Bf16(out) => self.judge_bf16(out, scrutiny)?,
            Out::Fp8 { q, sf, rule } => self.judge_codes((q, sf), *rule)?,
        };
        if let Some(residual) = &self.operands.residual {
            checks.push(residual.equals("residual", "residual", &self.problem.sum())?);
        }
        Ok(checks)
    }

    fn faults(&self) -> DataFaults {
        match self.problem.case.output {
            NormOutput::Fp8(_) => super::nonfinite(&self.problem.sum()),
            NormOutput::Bf16 => DataFaults::NONE,
        }
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    [true, false].map(traced_to).into()
}

/// Two rows, whose second pieces half of the threads have; with a residual and one rounding, or neither.
fn traced_to(bf16: bool) -> Launch {
    let only = |given: bool, index| if given { region(index) } else { 0 };
    let params = Params::of::<RmsNormParams>()
        .u64(offset_of!(RmsNormParams, x), region(0))
        .u64(offset_of!(RmsNormParams, residual), only(bf16, 1))
        .u64(offset_of!(RmsNormParams, weight), region(2))
        .u64(offset_of!(RmsNormParams, out), only(bf16, 3))
        .u64(offset_of!(RmsNormParams, q), only(!bf16, 4))
        .u64(offset_of!(RmsNormParams, sf), only(!bf16, 5))
        .u64(offset_of!(RmsNormParams, error_words), region(6))
        .u64(offset_of!(RmsNormParams, x_pitch), 3080)
        .u64(offset_of!(RmsNormParams, residual_pitch), 3088)
        .u64(offset_of!(RmsNormParams, out_pitch), 3096)
        .u64(offset_of!(RmsNormParams, q_pitch), 3104)
        .u64(offset_of!(RmsNormParams, sf_pitch), 9)
        .u32(offset_of!(RmsNormParams, hidden), 3072)
        .u32(offset_of!(RmsNormParams, eps), 1e-6_f32.to_bits())
        .u32(offset_of!(RmsNormParams, rounding), if bf16 { NORM_ROUND_ONCE } else { NORM_ROUND_EACH_STEP });
    let params = Rule::POWER_OF_TWO.trace(params, offset_of!(RmsNormParams, rule));
    fixed(&RMS_NORM, 2, params)
}

mod faults {
    use super::{NormOutput, RmsNormCase};
    use crate::case::boxed;
    use crate::planted::{Trial, faults};
    use crate::quant::Rule;
    use deepseek_kernels::bf16;
    use deepseek_kernels::quant::NormRounding;
    use std::sync::Arc;

    /// More pieces than a CTA has threads, and codes whose last block ends within a warp.
    const NORM: Trial = Trial::Cases(|| {
        let case = RmsNormCase { eps: 0.25, ..RmsNormCase::new((3, 2176)) };
        let fp8 = RmsNormCase { output: NormOutput::Fp8(Rule::POWER_OF_TWO), residual: false, ..case };
        boxed([case, RmsNormCase { rounding: NormRounding::EachStep, ..case }, fp8])
    });
    /// Scales in FP32, which have every bit of what they are the largest of, and elements of many magnitudes.
    const ORDER: Trial = Trial::Changed(|| {
        let output = NormOutput::Fp8(Rule::FP32);
        let case = RmsNormCase { eps: 0.25, output, residual: false, ..RmsNormCase::new((24, 7168)) };
        let mut problem = case.problem();
        let value = |i: usize| (i as f32 * 1.37).sin() * ((i as f32 * 0.77).cos() * 6.0 - 4.0).exp2();
        problem.x.iter_mut().enumerate().for_each(|(i, x)| *x = bf16::from_f32(value(i)));
        vec![(Box::new(case), Arc::new(problem))]
    });

    faults! {
        residual_not_written_back: NORM, "ptx::stg_v4_u32(gResidual, h);" => "", ["residual: residual["];
        sum_with_the_residual_unrounded: NORM,
            "return bf16_piece(h);" => "return sum;", ["bound: "];
        squares_of_the_first_pieces_only: NORM,
            "ptx::fma_rn(h[i].x[e]" => "i != 0 ? squares : ptx::fma_rn(h[i].x[e]", ["bound: ", "bits: "];
        squares_of_one_warp: NORM,
            "value = op(value, ptx::lds_f32(smem + warp * sizeof(float)))" => "", ["bound: "];
        no_barrier_before_the_sum_is_shared: NORM,
            "sizeof(float), value); ... ptx::syncthreads();" => "",
            ["not ordered", "nothing has written"];
        mean_without_eps: NORM, "mean + params.eps" => "mean", ["bound: "];
        weight_of_another_column: NORM, "params.weight + column" => "params.weight", ["bound: "];
        one_rounding_for_both: NORM, "params.rounding == NORM_ROUND_EACH_STEP" => "false", ["bits: out["];
        pieces_past_the_row_are_stored: NORM,
            "column(i) < params.hidden;" => "true;", ["outside", "not ordered", "around"];
        lanes_added_nearest_first: ORDER,
            "mask = Lanes / 2; mask > 0; mask /= 2" => "mask = 1; mask < Lanes; mask *= 2", ["scales: "];
        warps_added_descending: ORDER,
            "value = ptx::lds_f32(smem);" => "value = ptx::lds_f32(smem + (Threads / 32 - 1) * sizeof(float));",
            "ptx::lds_f32(smem + warp * sizeof(float))"
                => "ptx::lds_f32(smem + (Threads / 32 - 1 - warp) * sizeof(float))",
            ["scales: "];
        elements_of_a_piece_descending: ORDER,
            "squares = ptx::fma_rn(h[i].x[e], h[i].x[e], squares)"
                => "squares = ptx::fma_rn(h[i].x[7 - e], h[i].x[7 - e], squares)",
            ["scales: "];
        pieces_summed_apart: ORDER,
            "h[i] = load_h(params, row, column(i));" => "h[i] = load_h(params, row, column(i)); float own = 0.0f;",
            "squares = ptx::fma_rn(h[i].x[e], h[i].x[e], squares);"
                => "{ own = ptx::fma_rn(h[i].x[e], h[i].x[e], own); if (e + 1 == kPieceElements) squares += own; }",
            ["scales: "];
        root_of_the_inverse: ORDER,
            "1.0f / ptx::sqrt_rn(mean + params.eps)" => "ptx::sqrt_rn(1.0f / (mean + params.eps))", ["scales: "];
        weight_times_scale_first: ORDER,
            "y.x[i] = h.x[i] * scale;" => "y.x[i] = each_step ? h.x[i] * scale : h.x[i] * (scale * weight.x[i]);",
            "y.x[i] = y.x[i] * weight.x[i];" => "if (each_step) y.x[i] = y.x[i] * weight.x[i];",
            ["scales: "];
        mean_by_the_inverse_of_the_width: ORDER,
            "squares / static_cast<float>(params.hidden)" => "squares * (1.0f / static_cast<float>(params.hidden))",
            ["scales: "];
        eps_added_to_the_sum: ORDER,
            "squares / static_cast<float>(params.hidden)"
                => "(squares + params.eps * params.hidden) / static_cast<float>(params.hidden) - params.eps",
            ["scales: "];
        scales_of_the_first_block: NORM,
            "column / kQuantizeBlock * params.sf_pitch" => "0", ["scales: ", "not ordered"];
    }
}
