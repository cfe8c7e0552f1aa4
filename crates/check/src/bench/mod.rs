//! What the benches share.

pub mod acceptance;
pub mod gpu;
pub mod timing;
