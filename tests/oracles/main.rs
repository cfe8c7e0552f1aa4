//! The oracles themselves.

mod codec;
mod mla;
mod mla_shapes;
mod prefill;
mod quantize;
mod reference;
