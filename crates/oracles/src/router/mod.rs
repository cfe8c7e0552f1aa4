//! Routing and balancing.

mod balance;
mod gate;

pub use balance::{bias_update, expert_load, max_vio, sequence_balance_loss, sequence_balance_loss_bits};
pub use gate::{
    GateModel, GateOptions, Routed, SQRT_SOFTPLUS_ROUNDINGS, ScoreModel, gate_logits, gate_logits_bound,
    gate_select, gate_weights_bound, sqrt_softplus,
};
