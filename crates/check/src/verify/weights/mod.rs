//! Matrices of a real model, from safetensors files.

mod checkpoint;
mod config;
mod index;
mod job;
mod kind;
mod matrix;
mod model;
mod pairs;
mod scales;
mod select;

pub use job::jobs;
pub use select::{Selection, select};
