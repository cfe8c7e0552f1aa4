//! What a router is planned from.

use crate::device::bindings::{GATE_CHUNK, MAX_EXPERTS, MAX_GATE_GROUPS, MAX_GATE_ROUTES};
use crate::error::Result;
use crate::launch::{MAX_DIM, check_factor, check_limit, check_multiple, check_range};
use crate::setters::setters;
use crate::table::router::GATE_BLOCK_K;

/// The logits' kernel walks K in slices of this many elements.
const HIDDEN_MULTIPLE: usize = GATE_BLOCK_K as usize;

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scoring {
    /// Each for itself, in (0, 1).
    Sigmoid,
    /// Over all experts of a token, before any choice. A NaN logit has no share and its score is NaN.
    Softmax,
    /// `sqrt(log(1 + exp(logit)))`, each for itself, not negative and without a bound: +Inf for +Inf, whose weight is then no
    /// number.
    SqrtSoftplus,
}

/// How the scores of a group's experts become the group's score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupScore {
    /// The best.
    Max,
    /// The sum of the two best.
    TopTwoSum,
}

/// A router and the tokens it routes at once.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GateSpec {
    /// Any number, 0 included.
    pub tokens: usize,
    /// Length of a token's hidden state, a multiple of 32.
    pub hidden: usize,
    /// Routed experts: 1 to 1024.
    pub experts: usize,
    /// Routed experts of a token: 1 at least, and no more than the kept groups have. With the shared ones at most 32.
    pub top_k: usize,
    /// Groups of neighbouring experts, at most 32; they divide the experts evenly. 1: no groups.
    pub groups: usize,
    /// Groups whose experts may be chosen: 1 at least.
    pub kept_groups: usize,
    /// Experts that every token has, as its last routes: ids from `experts` on, weight 1.
    pub shared: usize,
    /// Scores.
    pub scoring: Scoring,
    /// Scores of groups.
    pub group_score: GroupScore,
    /// Whether the weights of a token are divided by the sum of its K scores.
    pub normalize: bool,
    /// Factor of the weights: positive, at most 65536. 0 would leave out what was chosen, a negative one turn it round.
    pub route_scale: f32,
}

impl GateSpec {
    /// Without groups and shared experts: sigmoid scores, weights that add up to 1.
    pub const fn new(tokens: usize, hidden: usize, experts: usize, top_k: usize) -> Self {
        Self {
            tokens,
            hidden,
            experts,
            top_k,
            groups: 1,
            kept_groups: 1,
            shared: 0,
            scoring: Scoring::Sigmoid,
            group_score: GroupScore::TopTwoSum,
            normalize: true,
            route_scale: 1.0,
        }
    }

    /// DeepSeek-V3 and R1: 8 of 256 experts, from 4 of 8 groups.
    pub const fn deepseek_v3(tokens: usize) -> Self {
        Self::new(tokens, 7168, 256, 8).groups(8).kept_groups(4).route_scale(2.5)
    }

    /// DeepSeek-V2: 6 of 160 experts, from 3 of 8 groups.
    pub const fn deepseek_v2(tokens: usize) -> Self {
        Self { kept_groups: 3, route_scale: 16.0, ..Self::softmax(tokens, 5120, 160, 6).groups(8) }
    }

    /// DeepSeek-V2-Lite: 6 of 64 experts, no groups.
    pub const fn deepseek_v2_lite(tokens: usize) -> Self {
        Self::softmax(tokens, 2048, 64, 6)
    }

    /// As DeepSeek-V2 scores and weighs.
    const fn softmax(tokens: usize, hidden: usize, experts: usize, top_k: usize) -> Self {
        Self {
            scoring: Scoring::Softmax,
            group_score: GroupScore::Max,
            normalize: false,
            ..Self::new(tokens, hidden, experts, top_k)
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        check_multiple("hidden", self.hidden, HIDDEN_MULTIPLE)?;
        check_limit("tokens", self.tokens as u64, MAX_DIM)?;
        check_limit("hidden", self.hidden as u64, MAX_DIM)?;
        check_range("experts", self.experts, MAX_EXPERTS.into())?;
        check_range("groups", self.groups, u64::from(MAX_GATE_GROUPS).min(self.experts as u64))?;
        check_multiple("experts", self.experts, self.groups)?;
        check_range("kept groups", self.kept_groups, self.groups as u64)?;
        check_range("routed experts of a token", self.top_k, MAX_GATE_ROUTES.into())?;
        check_limit("experts of a token", self.routes() as u64, MAX_GATE_ROUTES.into())?;
        let kept = self.experts / self.groups * self.kept_groups;
        check_limit("top_k, of the experts of the kept groups,", self.top_k as u64, kept as u64)?;
        check_factor("route_scale", self.route_scale)
    }

    /// Columns of ids and weights: `top_k + shared`.
    pub fn routes(&self) -> usize {
        self.top_k.saturating_add(self.shared)
    }

    /// Chains of FMAs in one logit.
    pub(super) fn chunks(&self) -> usize {
        self.hidden.div_ceil(GATE_CHUNK as usize)
    }
}

setters!(GateSpec {
    groups: usize,
    kept_groups: usize,
    shared: usize,
    scoring: Scoring,
    group_score: GroupScore,
    normalize: bool,
    route_scale: f32,
});
