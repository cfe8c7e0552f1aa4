//! Which experts a token goes to, and how the load stays even.
#![forbid(unsafe_code)]

mod balance;
mod gate;

pub use balance::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, SequenceBalanceLoss, SequenceBalanceLossSpec,
};
pub use gate::{Gate, GateInput, GateSpec, GateWeight, GroupScore, Routing, Scoring};
