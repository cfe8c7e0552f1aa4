//! What judges the kernels: devices, guarded operands, the cases of every operation, and `verify`.

pub mod anatomy;
pub mod bench;
pub mod case;
pub mod cli;
pub mod console;
pub mod data;
pub mod deepseek_v3;
pub mod devices;
pub mod driver;
pub mod escape;
pub mod families;
pub mod gemm;
pub mod goldens;
pub mod json;
pub mod judge;
pub mod machine;
pub mod memory;
pub mod mla;
pub mod moe;
pub mod output;
pub mod planted;
#[cfg(feature = "probes")]
pub mod probes;
#[cfg(feature = "probes")]
pub mod protocol;
pub mod quant;
pub mod regress;
pub mod resources;
pub mod router;
pub mod select;
mod text_table;
pub mod trace;
pub mod verify;

/// The repository's examples, as tests; those of the package are the library's.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
