//! Every operation on every device: bits of the references, bounds of any correct kernel, guards around every operand.

mod coverage;
mod gemm;
mod mla;
mod moe;
mod quant;
mod router;
