//! What the benches share.

#[cfg(feature = "benches")]
pub mod gpu;
pub mod record;
pub mod timing;
