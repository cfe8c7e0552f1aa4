//! Routing, and what balances it.

pub mod balance;
pub mod gate;

use deepseek_kernels::router::{GateSpec, GroupScore, Scoring};
use oracles::router::GateModel;

/// The same router for the references.
pub fn gate_model(spec: &GateSpec) -> GateModel {
    GateModel {
        experts: spec.experts,
        top_k: spec.top_k,
        groups: spec.groups,
        kept_groups: spec.kept_groups,
        shared: spec.shared,
        softmax: spec.scoring == Scoring::Softmax,
        top_two_sum: spec.group_score == GroupScore::TopTwoSum,
        normalize: spec.normalize,
        route_scale: spec.route_scale,
    }
}
