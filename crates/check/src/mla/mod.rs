//! Latent attention on operands in poisoned memory.

pub mod absorb;
pub mod decode;
pub mod golden;
pub mod kv_append;
pub mod merge_states;
pub mod rope;
pub mod shapes;
