//! Cases of the router and of what balances it.

pub mod bias_update;
pub mod expert_load;
pub mod gate;
pub mod sequence_balance_loss;

use crate::planted::Fault;
use crate::trace::Launch;
use deepseek_kernels::router::{GateSpec, GroupScore, Scoring};
use deepseek_kernels::table::router::GATE_FEW_TOKENS;
use oracles::router::{GateModel, ScoreModel};

use crate::case::{Cases, boxed};
use crate::deepseek_v3::{EXPERTS, TOP_K, tokens};
use crate::families::Extent;
use bias_update::BiasUpdateCase;
use expert_load::ExpertLoadCase;
use gate::{GateCase, Source};
use sequence_balance_loss::SequenceBalanceLossCase;

/// The same router for the references.
pub fn gate_model(spec: &GateSpec) -> GateModel {
    GateModel {
        experts: spec.experts,
        top_k: spec.top_k,
        groups: spec.groups,
        kept_groups: spec.kept_groups,
        shared: spec.shared,
        scoring: match spec.scoring {
            Scoring::Sigmoid => ScoreModel::Sigmoid,
            Scoring::Softmax => ScoreModel::Softmax,
            Scoring::SqrtSoftplus => ScoreModel::SqrtSoftplus,
        },
        top_two_sum: spec.group_score == GroupScore::TopTwoSum,
        normalize: spec.normalize,
        route_scale: spec.route_scale,
    }
}

/// Every kernel: several tiles of tokens and of experts, both ragged, and a second chunk of the hidden state.
pub fn smoke() -> Cases {
    let spec =
        |tokens| GateSpec::new(tokens, 1056, 72, 6).groups(8).kept_groups(4).shared(1).route_scale(2.5);
    let gate = |tokens| GateCase { bias: true, ..GateCase::new(spec(tokens)) };
    let logits = GateCase { source: Source::Logits, bias: false, fixed: true, ..gate(37) };
    let many = GateCase { source: Source::Bf16, mask: true, ..gate(GATE_FEW_TOKENS + 1) };
    let many_experts = GateSpec::new(9, 32, 896, 16).groups(14).kept_groups(6);
    let other = GateSpec::new(21, 64, 40, 6).scoring(Scoring::SqrtSoftplus).route_scale(1.5);
    let mut cases = boxed([
        gate(37),
        many,
        logits,
        GateCase { bias: true, ..GateCase::new(other) },
        GateCase::select(many_experts),
    ]);
    cases.extend(boxed([ExpertLoadCase::new((90, 8), 40)]));
    cases.extend(boxed([BiasUpdateCase::new(258), BiasUpdateCase::new(600)]));
    cases.extend(boxed(
        [((2, 27), (72, 5)), ((1, 9), (896, 16))]
            .map(|(tokens, experts)| SequenceBalanceLossCase::new(tokens, experts)),
    ));
    cases
}

/// DeepSeek-V3's router, or a small one like it.
pub fn timed(extent: Extent) -> Cases {
    let (spec, tokens): (fn(usize) -> GateSpec, &[_]) = match extent {
        Extent::Full => (GateSpec::deepseek_v3, &[64, 512, 4096]),
        Extent::Reduced => {
            (|tokens| GateSpec::new(tokens, 512, 32, 8).groups(8).kept_groups(4).route_scale(2.5), &[3, 6])
        }
    };
    let of_tokens = |&tokens: &usize| {
        let spec = spec(tokens);
        let mut cases = boxed([GateCase { bias: true, scores: false, ..GateCase::new(spec) }]);
        cases.extend(balance(tokens, (spec.experts, spec.top_k), 1));
        cases
    };
    let mut cases: Cases = tokens.iter().flat_map(of_tokens).collect();
    // More experts than the usual kernels hold.
    let tokens = tokens[0];
    let mut many = spec(tokens);
    (many.experts, many.top_k) = (896, 16);
    cases.extend(boxed([GateCase { bias: true, scores: false, ..GateCase::new(many) }]));
    cases.extend(balance(tokens, (many.experts, many.top_k), 1));
    cases.extend(boxed([BiasUpdateCase::new(spec(0).experts)]));
    cases
}

/// What looks at the choices of so many tokens, for their balance.
fn balance(tokens: usize, (experts, top_k): (usize, usize), seed: u64) -> Cases {
    let mut cases = boxed([ExpertLoadCase { seed, ..ExpertLoadCase::new((tokens, top_k), experts) }]);
    let loss = SequenceBalanceLossCase::new((1, tokens), (experts, top_k));
    cases.extend(boxed([SequenceBalanceLossCase { seed, ..loss }]));
    cases
}

/// The router and its balance.
pub fn layer(extent: Extent, seed: u64) -> Cases {
    let tokens = tokens(extent);
    let gate = GateCase { bias: true, seed, ..GateCase::new(GateSpec::deepseek_v3(tokens)) };
    let mut cases = boxed([gate]);
    cases.extend(boxed([BiasUpdateCase { seed, ..BiasUpdateCase::new(EXPERTS) }]));
    cases.extend(balance(tokens, (EXPERTS, TOP_K), seed));
    cases
}

/// Launches of every kernel, for the operand trace.
pub fn traced() -> Vec<Launch> {
    [gate::traced(), expert_load::traced(), bias_update::traced(), sequence_balance_loss::traced()].concat()
}

/// Launches whose protocols are explored: its kernels have none.
pub fn explored() -> Vec<Launch> {
    Vec::new()
}

/// Faults in its kernels.
pub fn faults() -> Vec<Fault> {
    [gate::FAULTS, expert_load::FAULTS, bias_update::FAULTS, sequence_balance_loss::FAULTS].concat()
}
