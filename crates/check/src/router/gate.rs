//! The gate: from hidden states or from logits, to experts and weights.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::router::{Gate, GateInput, GateSpec, Routing};
use deepseek_kernels::{DataFaults, Device, Error, Matrix, Stream, bf16};
use oracles::router::{GateOptions, gate_logits, gate_logits_bound, gate_select, gate_weights_bound};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use super::gate_model;
use crate::case::{Case, Prepared, Problem, Work};
use crate::data::activations;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Memory, Operand, Output, Rows};

/// What the logits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They are given: normal ones; then, in one token of three, few values, so that most decisions are ties, in one token
    /// equals alone, and NaN here and there.
    Logits,
    /// Hidden states and a weight in FP32.
    F32,
    /// Hidden states and a weight in BF16.
    Bf16,
}

/// A router and its tokens.
#[derive(Debug, Clone, Copy)]
pub struct GateCase {
    pub spec: GateSpec,
    pub source: Source,
    /// With a bias, all of it negative.
    pub bias: bool,
    /// With a mask that makes every fifth token padding.
    pub mask: bool,
    /// With a choice that is given, one id of it dropped and one that is none.
    pub fixed: bool,
    /// Whether scores are asked for.
    pub scores: bool,
    pub seed: u64,
}

/// Tokens of a brief look.
const BRIEF: usize = 8;
/// Products of logits that are judged by their bound: about a second of one core.
const BUDGET: usize = 1 << 27;
/// Past this an exponential may overflow, and the bound of a weight does not hold.
const LARGEST_LOGIT: f32 = 80.0;

impl GateCase {
    /// Hidden states, an FP32 weight, nothing given.
    pub const fn new(spec: GateSpec) -> Self {
        Self { spec, source: Source::F32, bias: false, mask: false, fixed: false, scores: true, seed: 1 }
    }

    /// Of logits.
    pub const fn select(spec: GateSpec) -> Self {
        Self { source: Source::Logits, ..Self::new(spec) }
    }

    /// With its inputs.
    pub fn problem(self) -> GateProblem {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.spec;
        let normal = |count: usize, scale: f32, seed: u64| {
            let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ seed);
            rng.sample_iter::<f32, _>(StandardNormal).take(count).map(move |x| x * scale)
        };
        let x = || activations(tokens, hidden, hidden, self.seed);
        let weight = || normal(experts * hidden, 0.02, 11);
        let inputs = match self.source {
            Source::Logits => GateInputs::Logits(mixed(normal(tokens * experts, 1.0, 12).collect(), experts)),
            Source::F32 => GateInputs::F32 { x: x(), weight: weight().collect() },
            Source::Bf16 => GateInputs::Bf16 { x: x(), weight: weight().map(bf16::from_f32).collect() },
        };
        let fixed_ids = || {
            let mut ids: Vec<i32> = (0..tokens * top_k).map(|i| (i * 7 % experts.max(1)) as i32).collect();
            ids.iter_mut().skip(3).take(1).for_each(|id| *id = -1);
            ids.iter_mut().skip(7).take(1).for_each(|id| *id = experts as i32);
            ids
        };
        GateProblem {
            case: self,
            inputs,
            bias: self.bias.then(|| normal(experts, 0.2, 13).map(|b| b.clamp(-1.0, 1.0) - 1.5).collect()),
            mask: self.mask.then(|| (0..tokens as u32).map(|t| t % 5).collect()),
            fixed_ids: self.fixed.then(fixed_ids),
        }
    }
}

fn mixed(mut logits: Vec<f32>, experts: usize) -> Vec<f32> {
    let tokens = logits.chunks_mut(experts.max(1)).enumerate();
    tokens.for_each(|(t, logits)| match t {
        4 => logits.fill(0.0),
        _ if t % 3 == 0 => logits.iter_mut().for_each(|x| *x = (3.0 * *x).round()),
        _ if t > 4 => logits.iter_mut().skip(t % 31).step_by(31).for_each(|x| *x = f32::NAN),
        _ => {}
    });
    logits
}

impl Case for GateCase {
    fn operation(&self) -> &'static str {
        "gate"
    }

    fn title(&self) -> String {
        let GateSpec { experts, top_k, .. } = self.spec;
        let from = if self.source == Source::Logits { " by logits" } else { "" };
        format!("route to {top_k} of {experts} experts{from}")
    }

    fn shape(&self) -> String {
        let GateSpec { tokens, hidden, experts, .. } = self.spec;
        match self.source {
            Source::Logits => format!("{tokens} x {experts}"),
            Source::F32 | Source::Bf16 => format!("{tokens} x {experts} x {hidden}"),
        }
    }

    fn label(&self) -> String {
        let options = [
            (self.source == Source::Bf16, "_bf16"),
            (self.bias, "_bias"),
            (self.mask, "_mask"),
            (self.fixed, "_fixed"),
        ];
        let options: String = options.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        let GateSpec { top_k, groups, kept_groups, .. } = self.spec;
        format!("{}_top{top_k}_{kept_groups}of{groups}{options}", self.shape().replace(' ', ""))
    }

    fn data(&self) -> String {
        if self.source == Source::Logits { "mixed" } else { "activations" }.to_owned()
    }

    fn work(&self) -> Work {
        let GateSpec { tokens, hidden, experts, .. } = self.spec;
        let from = match self.source {
            Source::Logits => 4 * tokens * experts,
            Source::F32 => 2 * tokens * hidden + 4 * experts * hidden,
            Source::Bf16 => 2 * tokens * hidden + 2 * experts * hidden,
        };
        let scores = if self.scores { 4 * tokens * experts } else { 0 };
        Work { flops: 0, bytes: (from + 8 * tokens * self.spec.routes() + scores) as u64 }
    }

    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(["gate_logits", "gate_select"].map(str::to_owned).into())
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A router with its inputs.
#[derive(Debug, Clone)]
pub struct GateProblem {
    pub case: GateCase,
    pub inputs: GateInputs,
    pub bias: Option<Vec<f32>>,
    pub mask: Option<Vec<u32>>,
    pub fixed_ids: Option<Vec<i32>>,
}

/// What the logits come from.
#[derive(Debug, Clone)]
pub enum GateInputs {
    Logits(Vec<f32>),
    F32 { x: Vec<bf16>, weight: Vec<f32> },
    Bf16 { x: Vec<bf16>, weight: Vec<bf16> },
}

impl GateProblem {
    /// What the choice of some tokens depends on besides the logits.
    fn options(&self, tokens: &Range<usize>) -> GateOptions<'_> {
        let top_k = self.case.spec.top_k;
        GateOptions {
            bias: self.bias.as_deref(),
            mask: self.mask.as_ref().map(|mask| &mask[tokens.clone()]),
            fixed_ids: self.fixed_ids.as_ref().map(|ids| &ids[tokens.start * top_k..tokens.end * top_k]),
        }
    }
}

impl Problem for GateProblem {
    fn prepare(self: Arc<Self>, device: &Device, memory: Memory) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(GateRun::new(self, device, memory)?))
    }
}

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
        checks.push(Check::within("bound of logits", "logits", experts, &got, &bounds));
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
        if good { DataFaults::NONE } else { DataFaults::EXPERT_ID }
    }
}
