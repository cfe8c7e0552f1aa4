//! Bad operands and shapes of GEMMs.

mod fp8_gemm;
mod grouped_fp8_gemm;
