//! Every operation on every device: bits of the references, bounds of any correct kernel, guards around every operand.

mod columns;
mod coverage;
mod far;
mod gemm;
mod indices;
mod many_tokens;
mod mla;
mod moe;
mod nonfinite;
mod quant;
mod raw;
mod router;
