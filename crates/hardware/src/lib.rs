//! What runs on a GPU host, in the order in which `run.sh` runs it: a smoke test against golden bits, timings by graph
//! replay, probes of single instructions. README.md says how to use it and what each step answers.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod card;
pub mod device;
pub mod golden;
pub mod processes;
pub mod record;
pub mod resources;
pub mod shapes;
