//! Every bad input gets an error that says what was expected and what came; nothing is launched, outputs keep their bytes, and
//! the device goes on working.

mod absorb;
mod append;
mod decode;
mod gemm;
mod moe;
