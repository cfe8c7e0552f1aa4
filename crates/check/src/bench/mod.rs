//! What the benches share.

pub mod acceptance;
#[cfg(feature = "benches")]
pub mod gpu;
pub mod timing;
