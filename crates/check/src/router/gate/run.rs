//! A router on a device.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::router::{Gate, GateInput, GateSpec, Routing};
use deepseek_kernels::{DataFaults, Device, Error, Matrix, Stream, bf16};
use oracles::router::{gate_logits, gate_logits_bound, gate_select, gate_weights_bound};

use super::{GateInputs, GateProblem, Source};
use crate::case::{Prepared, fault_if};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Memory, Operand, Output, Rows};
use crate::router::gate_model;

/// Tokens of a brief look.
const BRIEF: usize = 8;
/// Products of logits that are judged by their bound: about a second of one core.
const BUDGET: usize = 1 << 27;
/// Past this an exponential may overflow, and the bound of a weight does not hold.
const LARGEST_LOGIT: f32 = 80.0;

/// A router on a device.
pub struct GateRun {
    problem: Arc<GateProblem>,
    pub plan: Gate,
    pub operands: GateOperands,
}

pub struct GateOperands {
    /// Without elements where logits are given, as is the workspace.
    x: Operand<bf16>,
    workspace: Operand<f32>,
    from: From,
    bias: Option<Operand<f32>>,
    mask: Option<Operand<u32>>,
    fixed_ids: Option<Operand<i32>>,
    ids: Operand<i32>,
    weights: Operand<f32>,
    scores: Option<Operand<f32>>,
}

enum From {
    Logits(Operand<f32>),
    F32(Operand<f32>),
    Bf16(Operand<bf16>),
}

/// What a plan is given.
pub struct GateArgs<'a> {
    pub from: GateFrom<'a>,
    pub routing: Routing<'a>,
}

/// What the logits come from.
pub enum GateFrom<'a> {
    Logits(Matrix<'a, f32>),
    F32(GateInput<'a, f32>),
    Bf16(GateInput<'a, bf16>),
}

impl GateArgs<'_> {
    /// Enqueues the plan.
    ///
    /// # Errors
    /// Of the plan.
    pub fn run(self, plan: &Gate, stream: Stream<'_>) -> Result<(), Error> {
        match self.from {
            GateFrom::Logits(logits) => plan.select(stream, logits, self.routing),
            GateFrom::F32(input) => plan.run(stream, input, self.routing),
            GateFrom::Bf16(input) => plan.run(stream, input, self.routing),
        }
    }
}

impl GateRun {
    pub fn new(problem: Arc<GateProblem>, device: &Device, memory: Memory) -> Result<Self> {
        let spec = problem.case.spec;
        let GateSpec { tokens, hidden, experts, top_k, .. } = spec;
        let plan = Gate::plan(device, spec)?;
        let mut arena = Arena::new(device, memory);
        let (any, aligned, weights) = (Rows::Aligned(4), Rows::Aligned(16), (experts, hidden));
        let from = match &problem.inputs {
            GateInputs::Logits(logits) => From::Logits(arena.input(logits, (tokens, experts), any)?),
            GateInputs::F32 { weight, .. } => From::F32(arena.input(weight, weights, aligned)?),
            GateInputs::Bf16 { weight, .. } => From::Bf16(arena.input(weight, weights, aligned)?),
        };
        let (x, rows): (&[bf16], _) = match &problem.inputs {
            GateInputs::Logits(_) => (&[], [0; 2]),
            GateInputs::F32 { x, .. } | GateInputs::Bf16 { x, .. } => {
                (x, [tokens, plan.workspace_len() / experts.max(1)])
            }
        };
        let routes = (tokens, spec.routes());
        let fixed_ids = problem.fixed_ids.as_ref();
        let operands = GateOperands {
            x: arena.input(x, (rows[0], hidden), aligned)?,
            workspace: arena.output((rows[1], experts), Rows::Packed(4))?,
            from,
            bias: problem.bias.as_ref().map(|bias| arena.list(bias)).transpose()?,
            mask: problem.mask.as_ref().map(|mask| arena.list(mask)).transpose()?,
            fixed_ids: fixed_ids.map(|ids| arena.input(ids, (tokens, top_k), any)).transpose()?,
            ids: arena.output(routes, any)?,
            weights: arena.output(routes, any)?,
            scores: problem.case.scores.then(|| arena.output((tokens, experts), any)).transpose()?,
        };
        Ok(Self { problem, plan, operands })
    }

    /// Logits of some tokens as the workspace holds them: sums over parts of K, added in ascending order.
    fn logits(&self, tokens: &Range<usize>) -> Result<Vec<f32>> {
        let GateSpec { tokens: all, experts, .. } = self.problem.case.spec;
        let mut logits = vec![0.0; tokens.len() * experts];
        for chunk in self.operands.workspace.values()?.chunks((all * experts).max(1)) {
            let chunk = &chunk[tokens.start * experts..tokens.end * experts];
            logits.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
        }
        Ok(logits)
    }

    /// What the references say of the logits, and the logits.
    fn judge_logits(&self, tokens: &Range<usize>, checks: &mut Vec<Check>) -> Result<Vec<f32>> {
        let GateSpec { hidden: k, experts, .. } = self.problem.case.spec;
        let (x, w) = match &self.problem.inputs {
            GateInputs::Logits(logits) => {
                return Ok(logits[tokens.start * experts..tokens.end * experts].to_vec());
            }
            GateInputs::F32 { x, weight } => (x, weight.clone()),
            GateInputs::Bf16 { x, weight } => (x, weight.iter().map(|w| w.to_f32()).collect()),
        };
        let x = &x[tokens.start * k..tokens.end * k];
        let got = self.logits(tokens)?;
        let expected = gate_logits(x, &w, tokens.len(), experts, k)?;
        let failure = Check::difference("logits", experts, &got, &expected);
        checks.push(Check::equal("logits", expected.len(), failure));
        let affordable = (BUDGET / (experts * k).max(1)).min(tokens.len());
        let bounds = gate_logits_bound(&x[..affordable * k], &w, affordable, experts, k)?;
        let sample = (affordable < tokens.len()).then_some([affordable, experts]);
        let within = Check::within("bound of logits", "logits", experts, &got[..bounds.len()], &bounds);
        checks.push(Check { sample, ..within });
        Ok(expected)
    }
}

impl GateOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GateArgs<'_>, Error> {
        let Self { x, workspace, from, .. } = self;
        let from = match from {
            From::Logits(logits) => GateFrom::Logits(logits.matrix()?),
            From::F32(weight) => GateFrom::F32(GateInput {
                hidden: x.matrix()?,
                weight: weight.matrix()?,
                workspace: workspace.slice_mut(),
            }),
            From::Bf16(weight) => GateFrom::Bf16(GateInput {
                hidden: x.matrix()?,
                weight: weight.matrix()?,
                workspace: workspace.slice_mut(),
            }),
        };
        let routing = Routing {
            bias: self.bias.as_ref().map(Operand::slice),
            mask: self.mask.as_ref().map(Operand::slice),
            fixed_ids: self.fixed_ids.as_ref().map(Operand::matrix).transpose()?,
            ids: self.ids.matrix_mut()?,
            weights: self.weights.matrix_mut()?,
            scores: self.scores.as_mut().map(Operand::matrix_mut).transpose()?,
        };
        Ok(GateArgs { from, routing })
    }
}

impl Prepared for GateRun {
    fn instance(&self) -> String {
        match self.problem.case.source {
            Source::Logits => "gate_select".to_owned(),
            Source::F32 | Source::Bf16 => "gate_*".to_owned(),
        }
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.operands.args()?.run(&self.plan, stream)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        let mut outputs =
            vec![Output::read("ids", &self.operands.ids)?, Output::read("weights", &self.operands.weights)?];
        outputs.extend(self.operands.scores.as_ref().map(|x| Output::read("scores", x)).transpose()?);
        Ok(outputs)
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let mut written = self.outputs()?;
        written.push(Output::read("workspace", &self.operands.workspace)?);
        Ok(written)
    }

    /// Briefly, the last tokens: none depends on another.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let spec = self.problem.case.spec;
        let tokens = match scrutiny {
            Scrutiny::Thorough => 0..spec.tokens,
            Scrutiny::Brief => spec.tokens.saturating_sub(BRIEF)..spec.tokens,
        };
        let mut checks = Vec::new();
        let logits = self.judge_logits(&tokens, &mut checks)?;
        let want = gate_select(&gate_model(&spec), &logits, self.problem.options(&tokens))?;
        let GateOperands { workspace, ids, weights, scores, .. } = &self.operands;
        if let Some(scores) = scores {
            checks.push(scores.rows_equal("scores", "scores", tokens.clone(), &want.scores)?);
        }
        checks.push(ids.rows_equal("experts", "ids", tokens.clone(), &want.ids)?);
        checks.push(weights.rows_equal("weights", "weights", tokens.clone(), &want.weights)?);
        if spec.shared == 0 && spec.top_k > 0 && logits.iter().all(|x| x.abs() <= LARGEST_LOGIT) {
            let bounds = gate_weights_bound(&gate_model(&spec), &logits, &want.ids);
            let got = weights.values()?.split_off(tokens.start * spec.top_k);
            checks.push(Check::within("bound of weights", "weights", spec.top_k, &got, &bounds));
        }
        checks.push(workspace.guarded("the workspace")?);
        Ok(checks)
    }

    fn faults(&self) -> DataFaults {
        let experts = self.problem.case.spec.experts as i32;
        let good = self.problem.fixed_ids.iter().flatten().all(|id| (-1..experts).contains(id));
        fault_if(!good, DataFaults::EXPERT_ID)
    }
}
