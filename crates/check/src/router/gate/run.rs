//! A router on a device.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::bindings::GATE_CHUNK;
use deepseek_kernels::router::{Gate, GateArgs, GateSelectArgs, GateSpec, Routing};
use deepseek_kernels::table::router;
use deepseek_kernels::{DataFaults, Error, Matrix, SliceMut, Stream, bf16};

use super::{GateExpected, GateInputs, GateProblem, Source};
use crate::case::Prepared;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output};

/// A router on a device.
pub struct GateRun {
    problem: Arc<GateProblem>,
    pub plan: Gate,
    pub operands: GateOperands,
}

pub struct GateOperands {
    /// Without elements where logits are given, as is the scratch.
    x: Operand<bf16>,
    scratch: Operand<u8>,
    from: From,
    bias: Option<Operand<f32>>,
    mask: Option<Operand<u32>>,
    fixed_ids: Option<IndexOperand>,
    ids: Operand<i32>,
    weights: Operand<f32>,
    scores: Option<Operand<f32>>,
}

enum From {
    Logits(Operand<f32>),
    F32(Operand<f32>),
    Bf16(Operand<bf16>),
}

/// What either entry point of a plan is given.
pub struct GateCall<'a> {
    pub from: GateFrom<'a>,
    pub routing: Routing<'a>,
}

/// What the logits come from.
pub enum GateFrom<'a> {
    Logits(Matrix<'a, f32>),
    Hidden { hidden: Matrix<'a, bf16>, weight: GateWeights<'a>, scratch: SliceMut<'a, u8> },
}

/// The router's weight.
pub enum GateWeights<'a> {
    F32(Matrix<'a, f32>),
    Bf16(Matrix<'a, bf16>),
}

impl GateCall<'_> {
    /// Enqueues the plan.
    ///
    /// # Errors
    /// Of the plan.
    pub fn run(self, plan: &Gate, stream: Stream<'_>) -> Result<(), Error> {
        let Self { from, routing } = self;
        match from {
            GateFrom::Logits(logits) => plan.select(stream, GateSelectArgs { logits, routing }),
            GateFrom::Hidden { hidden, weight, scratch } => match weight {
                GateWeights::F32(weight) => plan.run(stream, GateArgs { hidden, weight, scratch, routing }),
                GateWeights::Bf16(weight) => plan.run(stream, GateArgs { hidden, weight, scratch, routing }),
            },
        }
    }
}

impl GateRun {
    pub fn new(problem: Arc<GateProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let plan = Gate::plan(arena.device(), problem.case.spec)?;
        let scratch = if problem.case.source == Source::Logits { 0 } else { plan.scratch_bytes() };
        let operands = GateOperands::new(&problem, arena, scratch)?;
        Ok(Self { problem, plan, operands })
    }
}

impl GateOperands {
    /// With so many bytes of scratch.
    pub fn new(problem: &GateProblem, arena: &mut Arena<'_>, scratch: usize) -> Result<Self> {
        let spec = problem.case.spec;
        let GateSpec { tokens, hidden, experts, top_k, .. } = spec;
        let (any, aligned, weights) = (Align(4), Align(16), (experts, hidden));
        let from = match &problem.inputs {
            GateInputs::Logits(logits) => From::Logits(arena.input(logits, (tokens, experts), any)?),
            GateInputs::F32 { weight, .. } => From::F32(arena.input(weight, weights, aligned)?),
            GateInputs::Bf16 { weight, .. } => From::Bf16(arena.input(weight, weights, aligned)?),
        };
        let (x, rows): (&[bf16], _) = match &problem.inputs {
            GateInputs::Logits(_) => (&[], 0),
            GateInputs::F32 { x, .. } | GateInputs::Bf16 { x, .. } => (x, tokens),
        };
        let routes = (tokens, spec.routes());
        let fixed_ids = problem.fixed_ids.as_ref();
        Ok(Self {
            x: arena.input(x, (rows, hidden), aligned)?,
            scratch: arena.scratch(scratch)?,
            from,
            bias: problem.bias.as_ref().map(|bias| arena.list(bias)).transpose()?,
            mask: problem.mask.as_ref().map(|mask| arena.list(mask)).transpose()?,
            fixed_ids: fixed_ids.map(|ids| arena.indices(ids, (tokens, top_k))).transpose()?,
            ids: arena.output(routes, any)?,
            weights: arena.output(routes, any)?,
            scores: problem.case.scores.then(|| arena.output((tokens, experts), any)).transpose()?,
        })
    }

    /// Logits of some tokens as the scratch holds them: sums over parts of K, added in ascending order.
    fn logits(&self, spec: &GateSpec, tokens: &Range<usize>) -> Result<Vec<f32>> {
        let GateSpec { tokens: all, experts, hidden, .. } = *spec;
        let mut logits = vec![0.0; tokens.len() * experts];
        let bytes = self.scratch.values()?;
        let (words, _) = bytes.as_chunks();
        let parts: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
        for chunk in parts.chunks((all * experts).max(1)).take(hidden.div_ceil(GATE_CHUNK as usize)) {
            let chunk = &chunk[tokens.start * experts..tokens.end * experts];
            logits.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
        }
        Ok(logits)
    }

    /// Logits, scores, choice and weights.
    pub fn judge(&self, problem: &GateProblem, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let spec = problem.case.spec;
        let expected = problem.expected(scrutiny)?;
        let GateExpected { tokens, routed: want, .. } = expected;
        let mut checks = Vec::new();
        if !matches!(problem.inputs, GateInputs::Logits(_)) {
            checks.extend(self.judge_logits(&spec, expected)?);
        }
        let Self { scratch, ids, weights, scores, .. } = self;
        if let Some(scores) = scores {
            checks.push(scores.rows_equal("scores", "scores", tokens.clone(), &want.scores)?);
        }
        checks.push(ids.rows_equal("experts", "ids", tokens.clone(), &want.ids)?);
        checks.push(weights.rows_equal("weights", "weights", tokens.clone(), &want.weights)?);
        if let Some(bounds) = &expected.weights_bound {
            let got = weights.values()?.split_off(tokens.start * spec.top_k);
            checks.push(Check::within("bound of weights", "weights", spec.top_k, &got, bounds));
        }
        checks.push(scratch.guarded("the scratch")?);
        Ok(checks)
    }

    fn judge_logits(&self, spec: &GateSpec, expected: &GateExpected) -> Result<[Check; 2]> {
        let GateExpected { tokens, logits, logits_bound, .. } = expected;
        let got = self.logits(spec, tokens)?;
        let failure = Check::difference("logits", spec.experts, &got, logits);
        let bits = Check::equal("logits", logits.len(), failure);
        let got = &got[..logits_bound.len()];
        let within = Check::within("bound of logits", "logits", spec.experts, got, logits_bound);
        let bounded = logits_bound.len() / spec.experts.max(1);
        let sample = (bounded < tokens.len()).then_some([bounded, spec.experts]);
        Ok([bits, Check { sample, ..within }])
    }

    /// Ids, weights, and scores if they are wanted.
    pub fn outputs(&self) -> Result<Vec<Output>> {
        let mut outputs = vec![Output::read("ids", &self.ids)?, Output::read("weights", &self.weights)?];
        outputs.extend(self.scores.as_ref().map(|x| Output::read("scores", x)).transpose()?);
        Ok(outputs)
    }

    /// What was chosen.
    pub fn ids(&self) -> Result<Vec<i32>> {
        self.ids.values()
    }

    pub fn scratch(&self) -> Result<Output> {
        Output::read("scratch", &self.scratch)
    }

    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GateCall<'_>, Error> {
        let Self { x, scratch, from, .. } = self;
        let (hidden, scratch) = (x.matrix()?, scratch.slice_mut());
        let hidden = |weight| GateFrom::Hidden { hidden, weight, scratch };
        let from = match from {
            From::Logits(logits) => GateFrom::Logits(logits.matrix()?),
            From::F32(weight) => hidden(GateWeights::F32(weight.matrix()?)),
            From::Bf16(weight) => hidden(GateWeights::Bf16(weight.matrix()?)),
        };
        let routing = Routing {
            bias: self.bias.as_ref().map(Operand::vector).transpose()?,
            mask: self.mask.as_ref().map(Operand::vector).transpose()?,
            fixed_ids: self.fixed_ids.as_ref().map(IndexOperand::indices).transpose()?,
            ids: self.ids.matrix_mut()?,
            weights: self.weights.matrix_mut()?,
            scores: self.scores.as_mut().map(Operand::matrix_mut).transpose()?,
        };
        Ok(GateCall { from, routing })
    }
}

impl Prepared for GateRun {
    fn instance(&self) -> String {
        match self.problem.case.source {
            Source::Logits => router::gate_select(self.problem.case.spec.experts).name.to_owned(),
            Source::F32 | Source::Bf16 => "gate_*".to_owned(),
        }
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.operands.args()?.run(&self.plan, stream)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        self.operands.outputs()
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let mut written = self.outputs()?;
        written.push(self.operands.scratch()?);
        Ok(written)
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        self.operands.judge(&self.problem, scrutiny)
    }

    fn faults(&self) -> DataFaults {
        self.problem.faults()
    }
}
