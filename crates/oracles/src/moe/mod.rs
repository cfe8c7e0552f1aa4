//! A mixture of experts around its grouped GEMMs, and all of it.

mod combine;
mod expert_map;
mod layer;
mod swiglu_quantize;

pub use combine::{Combined, combine};
pub use expert_map::{MapLayout, Mapped, expert_map, local_experts};
pub use layer::{ExpertMatrices, MoeLayerModel, MoeLayerOutput, moe_layer};
pub use swiglu_quantize::{SwigluModel, swiglu, swiglu_quantize};
