//! The block-scaled GEMM: reference, bit model, exact integers, error bound; and operands for it.

mod bound;
mod exact;
mod fp8_gemm;
mod inputs;
mod operands;
mod oracle;

pub use bound::{Bounded, Special, bound};
pub use exact::{NotExact, exact};
pub use fp8_gemm::{bit_model, reference};
pub use inputs::{GemmClass, GemmInputs, UnknownClass};
pub use operands::{Elements, Epilogue, Operands, Output, Sample};
pub use oracle::{Expectation, Oracle};
