//! A mixture of experts around its grouped GEMMs: from chosen experts to rows, and back to tokens.
#![forbid(unsafe_code)]

mod combine;
mod expert_map;
mod gate_map;
mod gate_up_swiglu;
mod gather_quantize;
mod layer;
mod swiglu_quantize;
mod used_rows;

pub use combine::{Combine, CombineArgs, CombineSpec};
pub use expert_map::{ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, Mapping};
pub use gate_map::{GateMap, GateMapArgs, GateMapSpec};
pub use gate_up_swiglu::{GateUpSwiglu, GateUpSwigluArgs, GateUpSwigluSpec};
pub use gather_quantize::{GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec};
pub use layer::{ExpertWeights, MoeLayer, MoeLayerArgs, MoeLayerSpec};
pub use swiglu_quantize::{
    GateUpOrder, RoutingWeights, SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec,
};
