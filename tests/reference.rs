#![cfg(feature = "reference")]
