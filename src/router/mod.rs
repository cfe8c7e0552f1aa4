//! Which experts a token goes to, and how the load stays even.
#![forbid(unsafe_code)]

mod balance;
mod gate;

pub use balance::{
    BiasUpdate, BiasUpdateArgs, BiasUpdateSpec, ExpertLoad, ExpertLoadArgs, ExpertLoadSpec,
    SequenceBalanceLoss, SequenceBalanceLossArgs, SequenceBalanceLossSpec,
};
pub use gate::{Gate, GateArgs, GateSelectArgs, GateSpec, GateWeight, GroupScore, Routing, Scoring};
