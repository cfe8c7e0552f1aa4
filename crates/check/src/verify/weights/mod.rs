//! Matrices of a real model, from a safetensors file.

mod checkpoint;
mod job;
mod matrix;
mod select;

pub use job::jobs;
pub use select::{Selection, select};
