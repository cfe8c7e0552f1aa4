//! The oracles themselves.

mod codec;
mod mla;
mod mla_shapes;
mod quantize;
mod reference;
