//! What the build script of `deepseek-kernels` does with its table of kernels: nvcc makes cubins, which the library embeds,
//! and a C++ compiler makes the emulated Hopper and a CUDA driver that runs on it.
//!
//! Chores and tests use the same: an old form of a kernel is compiled, a cubin read, and a kernel with a planted fault listed
//! for the emulator, as a build does it.

pub mod compile;
pub mod cubins;
#[cfg(feature = "emulator")]
mod driver;
#[cfg(feature = "emulator")]
mod emulator;
#[cfg(feature = "emulator")]
mod host;
mod kernels;
pub mod nvcc;
pub mod ptxas;
#[cfg(feature = "sass")]
pub mod sass;
mod script;

use std::fs;
use std::path::Path;

pub use kernels::{KERNEL_LIST, Kernel, emulator_table};
pub use script::build;

/// Tells the crate why a part is missing; its errors return the reason.
fn leave_out(part: &str, reason: &str) {
    println!("cargo:rustc-env=DK_NO_{part}_REASON={}", reason.replace('\n', "; "));
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
