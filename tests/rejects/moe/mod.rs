//! Bad input of a mixture of experts: an error that says what was expected and what came.

mod combine;
mod expert_map;
mod gate_map;
mod gate_up_swiglu;
mod moe_layer;
mod rows;
