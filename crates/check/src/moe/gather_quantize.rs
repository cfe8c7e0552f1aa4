//! Rows of tokens, gathered by expert and quantised.

use super::{TRACED_K, TRACED_ROWS, traced_rows};
use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::GatherQuantizeParams;
use deepseek_kernels::table::moe::GATHER_QUANTIZE;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{ExpertMapSpec, GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec};
use deepseek_kernels::{DataFaults, Error, Stream, bf16};
use oracles::quant::{Quantized, quantize_1x128};

use super::batch::{Batch, QuantizedRows};
use super::expert_map::ExpertMapCase;
use crate::case::{Case, Expected, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};
use crate::quant::{QuantizerClass, Rule};

/// The hidden states of routed tokens: rows that show what a quantiser does.
#[derive(Debug, Clone, Copy)]
pub struct GatherQuantizeCase {
    pub map: ExpertMapCase,
    pub hidden: usize,
    pub rule: Rule,
    /// Few tokens differ: large operands are drawn in no time.
    pub repeated: bool,
}

impl GatherQuantizeCase {
    /// Powers of two.
    pub const fn new(map: ExpertMapCase, hidden: usize) -> Self {
        Self { map, hidden, rule: Rule::POWER_OF_TWO, repeated: false }
    }

    fn spec(&self) -> GatherQuantizeSpec {
        let Self { map: ExpertMapCase { spec, .. }, hidden, rule, .. } = *self;
        let ExpertMapSpec { tokens, top_k, .. } = spec;
        GatherQuantizeSpec::new(tokens, top_k, hidden, spec.local(), spec.segments()).rule(rule.rule())
    }

    /// With its inputs.
    pub fn problem(self) -> GatherQuantizeProblem {
        let shape = (self.map.spec.tokens, self.hidden);
        let x = QuantizerClass::Special.draw(shape, self.repeated, self.map.seed);
        GatherQuantizeProblem { case: self, batch: self.map.batch(), x, expected: Expected::default() }
    }
}

impl Case for GatherQuantizeCase {
    fn operation(&self) -> &'static str {
        "gather_quantize"
    }

    fn title(&self) -> String {
        "gather and quantise".to_owned()
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.map.spec.rows(), self.hidden)
    }

    fn label(&self) -> String {
        format!("{}_{}{}", self.map.rows_label(), self.hidden, self.rule.suffix())
    }

    fn data(&self) -> String {
        self.map.data()
    }

    fn work(&self) -> Work {
        let (tokens, routes) = (self.map.spec.tokens, self.map.spec.tokens * self.map.spec.top_k);
        let bytes = 2 * tokens * self.hidden + routes * (self.hidden + self.hidden / 32 + 4);
        Work { flops: 0, bytes: bytes as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        let mut case = *self;
        case.map.seed = case.map.seed.wrapping_add(by);
        Box::new(case)
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// Hidden states, and whose they are.
#[derive(Debug, Clone)]
pub struct GatherQuantizeProblem {
    pub case: GatherQuantizeCase,
    pub batch: Batch,
    pub x: Vec<bf16>,
    pub expected: Expected<Quantized>,
}

impl GatherQuantizeProblem {
    /// Rows without a route, and rows of no expert, are zero.
    fn reference(&self) -> Result<Quantized> {
        let Self { case: GatherQuantizeCase { hidden, rule, .. }, ref batch, ref x, .. } = *self;
        let mut gathered = vec![bf16::ZERO; batch.rows() * hidden];
        for (row, values) in gathered.chunks_exact_mut(hidden.max(1)).enumerate() {
            if let Some(route) = batch.route(row).filter(|_| batch.used(row)) {
                values.copy_from_slice(&x[route / batch.spec.top_k * hidden..][..hidden]);
            }
        }
        Ok(quantize_1x128(&gathered, batch.rows(), hidden, hidden, rule.model())?)
    }

    fn expected(&self) -> Result<&Quantized> {
        self.expected.get(Scrutiny::Thorough, || self.reference())
    }
}

impl Problem for GatherQuantizeProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(GatherQuantizeRun::new(self, arena)?))
    }
}

/// A gather on a device.
pub struct GatherQuantizeRun {
    problem: Arc<GatherQuantizeProblem>,
    pub plan: GatherQuantize,
    pub operands: GatherQuantizeOperands,
}

pub struct GatherQuantizeOperands {
    x: Operand<bf16>,
    row_route: Operand<i32>,
    segments: Operand<i32>,
    out: QuantizedRows,
}

impl GatherQuantizeRun {
    pub fn new(problem: Arc<GatherQuantizeProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let GatherQuantizeProblem { case, batch, x, .. } = &*problem;
        let plan = GatherQuantize::plan(arena.device(), case.spec())?;
        let operands = GatherQuantizeOperands {
            x: arena.input(x, (batch.spec.tokens, case.hidden), Align(16))?,
            row_route: arena.list(&batch.map.row_route)?,
            segments: arena.list(batch.segments())?,
            out: QuantizedRows::new(arena, (batch.rows(), case.hidden), Align(8))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl GatherQuantizeOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GatherQuantizeArgs<'_>, Error> {
        Ok(GatherQuantizeArgs {
            x: self.x.matrix()?,
            row_route: self.row_route.vector()?,
            segments: self.segments.vector()?,
            q: self.out.q.matrix_mut()?,
            sf: self.out.sf.m_major_mut()?,
        })
    }
}

impl Prepared for GatherQuantizeRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        self.operands.out.outputs()
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let batch = &self.problem.batch;
        self.operands.out.judge(batch.rows(), |row| batch.used(row), self.problem.expected()?)
    }

    fn faults(&self) -> DataFaults {
        let nonfinite = self.problem.expected().is_ok_and(|rows| rows.nonfinite);
        self.problem.batch.faults(true, nonfinite)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    [0, 20].map(traced_in).into()
}

fn traced_in(max_rows: u32) -> Launch {
    let params = Params::of::<GatherQuantizeParams>()
        .u64(offset_of!(GatherQuantizeParams, x), region(1))
        .u64(offset_of!(GatherQuantizeParams, row_route), region(2))
        .u64(offset_of!(GatherQuantizeParams, q), region(3))
        .u64(offset_of!(GatherQuantizeParams, sf), region(4))
        .u64(offset_of!(GatherQuantizeParams, error_words), region(5))
        .u64(offset_of!(GatherQuantizeParams, x_pitch), 400)
        .u64(offset_of!(GatherQuantizeParams, q_pitch), 392)
        .u64(offset_of!(GatherQuantizeParams, sf_pitch), 161)
        .u32(offset_of!(GatherQuantizeParams, routes), 150)
        .u32(offset_of!(GatherQuantizeParams, top_k), 6)
        .u32(offset_of!(GatherQuantizeParams, k), TRACED_K);
    let params = Rule::FP32.trace(params, offset_of!(GatherQuantizeParams, rule));
    let params = traced_rows(params, offset_of!(GatherQuantizeParams, used), max_rows);
    fixed(&GATHER_QUANTIZE, TRACED_ROWS * TRACED_K.div_ceil(128) / 16, params)
}

mod faults {
    use crate::case::boxed;
    use crate::moe::expert_map::ExpertMapCase;
    use crate::moe::gather_quantize::GatherQuantizeCase;
    use crate::moe::{LAYOUTS, Routing};
    use crate::planted::{Trial, faults};
    use crate::quant::Rule;

    const GATHER: Trial = Trial::Cases(|| {
        boxed(LAYOUTS.map(|layout| {
            let map = ExpertMapCase::new((23, 3, 5)).laid_out(layout);
            let map = ExpertMapCase { routing: Routing::Strangers, seed: 2, ..map };
            GatherQuantizeCase { rule: Rule::FP32, ..GatherQuantizeCase::new(map, 232) }
        }))
    });

    faults! {
        padding_used_as_a_route: GATHER, "route < params.routes" => "route != 12345", ["outside"];
        token_of_the_next_route: GATHER, "route / params.top_k" => "(route + 1) / params.top_k", ["q[", "sf[", "outside"];
        route_taken_for_a_token: GATHER, "route / params.top_k" => "route", ["q[", "sf[", "outside"];
        rows_of_no_expert_written: GATHER, "if (!exists) return;" => "", ["outside", "of no expert was written", "not ordered", "q["];
        one_row_of_a_segment_missing: GATHER, "row < segment.row_end" => "row + 1 < segment.row_end", ["q[", "sf["];
        one_row_beyond_a_segment: GATHER,
            "row < segment.row_end" => "row <= segment.row_end", ["of no expert was written", "sf["];
        columns_past_the_end: GATHER, "used && column < params.k" => "used", ["outside", "read-only load of q", "not ordered"];
        rows_up_to_the_last_but_one_end: GATHER,
            "row / used.max_rows : used.experts" => "row / used.max_rows : used.experts - 1", ["q[", "sf["];
        scales_of_the_wrong_layout: GATHER,
            "params.sf + g * params.sf_pitch + row" => "params.sf + row * blocks + g", ["sf[", "was written"];
    }
}
