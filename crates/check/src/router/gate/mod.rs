//! The gate: from hidden states or from logits, to experts and weights.

mod faults;
mod run;
mod traced;

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::router::{GateSpec, Scoring};
use deepseek_kernels::table::router;
use deepseek_kernels::{DataFaults, Device, bf16};
use oracles::router::{GateOptions, Routed, gate_logits, gate_logits_bound, gate_select, gate_weights_bound};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::case::{Case, Expected, Prepared, Problem, Work, fault_if};
use crate::data::activations;
use crate::judge::Scrutiny;
use crate::memory::Arena;
use crate::router::gate_model;

pub use faults::FAULTS;
pub use run::{GateCall, GateFrom, GateOperands, GateRun, GateWeights};
pub use traced::{FIXED, GROUPED, SOFTMAX, Selection, traced, traced_selection};

/// Tokens of a brief look.
const BRIEF: usize = 8;
/// Products of logits that are judged by their bound: about a second of one core.
const BUDGET: usize = 1 << 27;
/// Past this an exponential may overflow, and the bound of a weight does not hold.
const LARGEST_LOGIT: f32 = 80.0;

/// What the logits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// They are given: normal ones; then, in one token of three, few values, so that most decisions are ties, in one token
    /// equals alone, in one scores of 0, and NaN here and there.
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
            expected: Expected::default(),
        }
    }
}

fn mixed(mut logits: Vec<f32>, experts: usize) -> Vec<f32> {
    let tokens = logits.chunks_mut(experts.max(1)).enumerate();
    tokens.for_each(|(t, logits)| match t {
        4 => logits.fill(0.0),
        // Scores of 0, whose sum nothing is divided by.
        7 => logits.fill(-200.0),
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
            (self.spec.scoring == Scoring::SqrtSoftplus, "_sqrt_softplus"),
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
        let (logits, select) =
            (router::gate_logits(self.spec.tokens).0, router::gate_select(self.spec.experts));
        Ok(vec![logits.name.to_owned(), select.name.to_owned()])
    }

    fn launched(&self, device: &Device) -> Result<Vec<String>> {
        let all = self.kernels(device)?;
        Ok(all.into_iter().skip(usize::from(self.source == Source::Logits)).collect())
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
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
    pub expected: Expected<GateExpected>,
}

/// What the references say of the tokens that are judged.
pub struct GateExpected {
    tokens: Range<usize>,
    logits: Vec<f32>,
    /// Of the logits of the first tokens, as many as are affordable; none of logits that are given.
    logits_bound: Vec<(f64, f64)>,
    routed: Routed,
    /// Unless the bound holds for none.
    weights_bound: Option<Vec<(f64, f64)>>,
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

    /// Of every token; briefly, of the last ones: none depends on another.
    fn expected(&self, scrutiny: Scrutiny) -> Result<&GateExpected> {
        let all = self.case.spec.tokens;
        let tokens = match scrutiny {
            Scrutiny::Thorough => 0..all,
            Scrutiny::Brief => all.saturating_sub(BRIEF)..all,
        };
        self.expected.get(scrutiny, || self.ask(tokens))
    }

    fn ask(&self, tokens: Range<usize>) -> Result<GateExpected> {
        let spec = &self.case.spec;
        let (experts, k, model) = (spec.experts, spec.hidden, gate_model(spec));
        let of = |x: &[bf16], w: &[f32]| -> Result<_> {
            let x = &x[tokens.start * k..tokens.end * k];
            let affordable = (BUDGET / (experts * k).max(1)).min(tokens.len());
            let bound = gate_logits_bound(&x[..affordable * k], w, affordable, experts, k)?;
            Ok((gate_logits(x, w, tokens.len(), experts, k)?, bound))
        };
        let (logits, logits_bound) = match &self.inputs {
            GateInputs::Logits(logits) => {
                (logits[tokens.start * experts..tokens.end * experts].to_vec(), vec![])
            }
            GateInputs::F32 { x, weight } => of(x, weight)?,
            GateInputs::Bf16 { x, weight } => of(x, &weight.iter().map(|w| w.to_f32()).collect::<Vec<_>>())?,
        };
        let routed = gate_select(&model, &logits, self.options(&tokens))?;
        let bounded = spec.shared == 0 && spec.top_k > 0 && logits.iter().all(|x| x.abs() <= LARGEST_LOGIT);
        let weights_bound = bounded.then(|| gate_weights_bound(&model, &logits, &routed.ids));
        Ok(GateExpected { tokens, logits, logits_bound, routed, weights_bound })
    }

    /// What a run has to report.
    pub fn faults(&self) -> DataFaults {
        let experts = self.case.spec.experts as i32;
        let good = self.fixed_ids.iter().flatten().all(|id| (-1..experts).contains(id));
        fault_if(!good, DataFaults::EXPERT_ID) | fault_if(self.is_nonfinite(), DataFaults::NONFINITE_SCORE)
    }

    /// Whether a token that is no padding has a logit, or meets a bias, that is not finite; an expert may be left out by -Inf.
    /// No finite inputs that are drawn have logits that overflow.
    fn is_nonfinite(&self) -> bool {
        let GateSpec { tokens, hidden, experts, .. } = self.case.spec;
        let live = |t: &usize| self.mask.as_ref().is_none_or(|mask| mask[*t] != 0);
        let nonfinite = |x: &[bf16]| !x.iter().all(|x| x.is_finite());
        let of_token = |x: &[bf16]| (0..tokens).filter(live).any(|t| nonfinite(&x[t * hidden..][..hidden]));
        let met = match &self.inputs {
            GateInputs::Logits(logits) => {
                let of_token = |t: usize| !logits[t * experts..][..experts].iter().all(|x| x.is_finite());
                (0..tokens).filter(live).any(of_token)
            }
            GateInputs::F32 { x, weight } => of_token(x) || !weight.iter().all(|w| w.is_finite()),
            GateInputs::Bf16 { x, weight } => of_token(x) || nonfinite(weight),
        };
        let sane = |bias: &f32| *bias < f32::INFINITY;
        let biased = self.fixed_ids.is_none() && !self.bias.iter().flatten().all(sane);
        (0..tokens).any(|t| live(&t)) && (met || biased)
    }
}

impl Problem for GateProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(GateRun::new(self, arena)?))
    }
}
