//! The fake CUDA driver, loaded as an engine's process would load it: what it refuses, what it accepts, which missing
//! order it sees, and what it says of the faults that it can plant. Needs the cubins, so nvcc at build time.
#![cfg(all(has_driver, has_cubins))]

mod api;
mod faults;
mod illegal;
mod illegal_launch;
mod legal;
mod order;
mod scene;
