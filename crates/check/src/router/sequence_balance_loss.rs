//! The loss of a sequence that uses few experts.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::SequenceBalanceLossParams;
use deepseek_kernels::table::router;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::router::{SequenceBalanceLoss, SequenceBalanceLossArgs, SequenceBalanceLossSpec};
use deepseek_kernels::{Device, Error, Stream};
use oracles::router::{sequence_balance_loss, sequence_balance_loss_bits};
use oracles::sigmoid_f32;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// Scores with many ties.
#[derive(Debug, Clone, Copy)]
pub struct SequenceBalanceLossCase {
    pub spec: SequenceBalanceLossSpec,
    pub seed: u64,
}

/// Chains in which the kernel adds tokens: one per warp.
const CHAINS: usize = 8;

impl SequenceBalanceLossCase {
    /// So many sequences of a length, routed to `top_k` of the experts.
    pub const fn new((sequences, length): (usize, usize), (experts, top_k): (usize, usize)) -> Self {
        Self { spec: SequenceBalanceLossSpec::new(sequences, length, experts, top_k, 0.003), seed: 1 }
    }

    /// Scores of a sequence.
    fn scores(&self) -> usize {
        self.spec.length * self.spec.experts
    }

    /// With its inputs.
    pub fn problem(self) -> SequenceBalanceLossProblem {
        let rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let logits = rng.sample_iter::<f32, _>(StandardNormal).take(self.spec.sequences * self.scores());
        let scores = logits.map(|x| sigmoid_f32((2.0 * x).round() / 2.0)).collect();
        SequenceBalanceLossProblem { case: self, scores }
    }
}

impl Case for SequenceBalanceLossCase {
    fn operation(&self) -> &'static str {
        "sequence_balance_loss"
    }

    fn title(&self) -> String {
        "balance loss of sequences".to_owned()
    }

    fn shape(&self) -> String {
        let SequenceBalanceLossSpec { sequences, length, experts, .. } = self.spec;
        format!("{sequences} x {length} x {experts}")
    }

    fn data(&self) -> String {
        "ties".to_owned()
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (4 * self.spec.sequences * (self.scores() + 1)) as u64 }
    }

    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(vec![router::sequence_balance_loss(self.spec.experts).name.to_owned()])
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// Sequences with their scores.
#[derive(Debug, Clone)]
pub struct SequenceBalanceLossProblem {
    pub case: SequenceBalanceLossCase,
    pub scores: Vec<f32>,
}

impl Problem for SequenceBalanceLossProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(SequenceBalanceLossRun::new(self, arena)?))
    }
}

/// Losses on a device.
pub struct SequenceBalanceLossRun {
    problem: Arc<SequenceBalanceLossProblem>,
    pub plan: SequenceBalanceLoss,
    pub operands: SequenceBalanceLossOperands,
}

pub struct SequenceBalanceLossOperands {
    scores: Operand<f32>,
    loss: Operand<f32>,
}

impl SequenceBalanceLossRun {
    pub fn new(problem: Arc<SequenceBalanceLossProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let spec = problem.case.spec;
        let plan = SequenceBalanceLoss::plan(arena.device(), spec)?;
        let scores = (spec.sequences * spec.length, spec.experts);
        let operands = SequenceBalanceLossOperands {
            scores: arena.input(&problem.scores, scores, Align(4))?,
            loss: arena.output((1, spec.sequences), Align(4))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl SequenceBalanceLossOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<SequenceBalanceLossArgs<'_>, Error> {
        Ok(SequenceBalanceLossArgs { scores: self.scores.matrix()?, loss: self.loss.vector_mut()? })
    }
}

impl Prepared for SequenceBalanceLossRun {
    fn instance(&self) -> String {
        router::sequence_balance_loss(self.problem.case.spec.experts).name.to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("loss", &self.operands.loss)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let SequenceBalanceLossProblem { case, scores } = &*self.problem;
        let SequenceBalanceLossSpec { sequences, experts, top_k, alpha, .. } = case.spec;
        let of = |sequence: usize| &scores[sequence * case.scores()..][..case.scores()];
        let near = |sequence: usize| {
            let (loss, bound) = sequence_balance_loss(of(sequence), experts, top_k, CHAINS)?;
            // The product with alpha may be subnormal, and is then off by half the least of those.
            Ok((f64::from(alpha) * loss, f64::from(alpha) * bound + 2.0_f64.powi(-150)))
        };
        let near = (0..sequences).map(near).collect::<Result<Vec<_>>>()?;
        let bound = Check::within("bound", "loss", 1, &self.operands.loss.values()?, &near);
        let bits =
            |sequence: usize| sequence_balance_loss_bits(of(sequence), (experts, top_k), CHAINS, alpha);
        let bits = (0..sequences).map(bits).collect::<Result<Vec<_>, _>>()?;
        Ok(vec![bound, self.operands.loss.equals("bits", "loss", &bits)?])
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    [72, 896].map(traced_of).into()
}

fn traced_of(experts: u32) -> Launch {
    let params = Params::of::<SequenceBalanceLossParams>()
        .u64(offset_of!(SequenceBalanceLossParams, scores), region(0))
        .u64(offset_of!(SequenceBalanceLossParams, loss), region(1))
        .u64(offset_of!(SequenceBalanceLossParams, scores_pitch), u64::from(experts) + 8)
        .u32(offset_of!(SequenceBalanceLossParams, length), 11)
        .u32(offset_of!(SequenceBalanceLossParams, experts), experts)
        .u32(offset_of!(SequenceBalanceLossParams, top_k), 3)
        .u32(offset_of!(SequenceBalanceLossParams, alpha), 1e-4_f32.to_bits());
    fixed(&router::sequence_balance_loss(experts as usize), 2, params)
}

mod faults {
    use super::SequenceBalanceLossCase;
    use crate::case::boxed;
    use crate::planted::{Trial, faults};

    const LOSS: Trial = Trial::Cases(|| boxed([SequenceBalanceLossCase::new((24, 27), (72, 5))]));

    faults! {
        loss_of_half_the_tokens: LOSS, "t += Config::kWarps" => "t += 2 * Config::kWarps", ["bound: loss["];
        loss_of_the_first_sequence: LOSS,
            "static_cast<uint64_t>(ptx::cta_idx()) * params.length + t" => "t", ["bound: loss["];
        shares_not_normalised: LOSS, "s[i] / sum" => "s[i]", ["bound: loss["];
        no_barrier_before_the_warps_are_added: LOSS, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        lanes_added_nearest_first: LOSS,
            "mask = Lanes / 2; mask > 0; mask /= 2" => "mask = 1; mask < Lanes; mask *= 2", ["bits: loss["];
        mean_taken_last: LOSS,
            "f * (share / static_cast<float>(params.length))" => "f * share / static_cast<float>(params.length)",
            ["bits: loss["];
        share_by_the_inverse_of_the_sum: LOSS, "s[i] / sum" => "s[i] * (1.0f / sum)", ["bits: loss["];
        tokens_of_a_warp_in_a_row: LOSS,
            "uint32_t t = warp; t < params.length; t += Config::kWarps"
                => "uint32_t t = warp * params.length / Config::kWarps; t < (warp + 1) * params.length / Config::kWarps; ++t",
            ["bits: loss["];
        alpha_in_every_term: LOSS,
            "loss += balance_term<Config>(params, gate_expert(i))"
                => "loss += params.alpha * balance_term<Config>(params, gate_expert(i))",
            "params.alpha * loss" => "loss",
            ["bits: loss["];
        warps_added_descending: LOSS,
            "share += ptx::lds_f32(balance_entry<Config>(1, warp, expert))"
                => "share += ptx::lds_f32(balance_entry<Config>(1, Config::kWarps - 1 - warp, expert))",
            ["bits: loss["];
        experts_of_a_lane_descending: LOSS,
            "if (gate_expert(i) < params.experts) loss += balance_term<Config>(params, gate_expert(i));"
                => "if (gate_expert(kRows - 1 - i) < params.experts) loss += balance_term<Config>(params, gate_expert(kRows - 1 - i));",
            ["bits: loss["];
        one_warp_forgotten: LOSS, "warp < Config::kWarps" => "warp + 1 < Config::kWarps", ["bound: loss["];
    }
}
