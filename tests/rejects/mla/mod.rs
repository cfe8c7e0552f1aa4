//! Bad operands and shapes around latent attention.

mod absorb;
mod decode;
mod kv_append;
mod merge_states;
mod prefill;
mod rope;
