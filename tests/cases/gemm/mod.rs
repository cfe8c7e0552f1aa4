mod fp8_gemm;
mod grouped_fp8_gemm;
