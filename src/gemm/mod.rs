//! FP8 block-scaled GEMM, dense, and grouped by expert.
#![forbid(unsafe_code)]

mod fp8_gemm;
mod grouped_fp8_gemm;
mod model;
pub(crate) mod operands;
pub(crate) mod planner;
mod segments;

pub use crate::table::MAX_EXPERTS;
pub use fp8_gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec};
pub use grouped_fp8_gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec};
pub use planner::GemmOutput;
pub use segments::Segments;
