//! The block-scaled GEMM: reference, bit model, exact integers, error bound; and operands for it.

mod fp8_gemm;

pub use crate::inputs::{GemmClass, GemmInputs, UnknownClass};
pub use crate::verdict::Oracle;
pub use fp8_gemm::{
    Bounded, Elements, Epilogue, NotExact, Operands, Output, Sample, Special, bit_model, bound, exact,
    reference,
};
