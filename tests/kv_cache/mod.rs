//! What the tests of the KV cache share: cases of its operations, compared with the references.
#![allow(dead_code, reason = "every test target uses its own part")]

pub mod append;
pub mod rotation;
