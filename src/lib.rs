#![doc = include_str!("README.md")]
//!
//! ## Operations
//!
//! | operation | computes | plan |
//! |---|---|---|
//! | FP8 block-scaled GEMM | `D = sum over K blocks of sfa * sfb * (A . B^T)` | [`gemm::Fp8Gemm`] |
//! | grouped GEMM (MoE) | the same for the rows of each expert, which the device finds itself | [`gemm::GroupedFp8Gemm`] |
//! | quantise activations | BF16 to E4M3, one scale per 1x128 | [`quant::Quantize1x128`] |
//! | quantise weights | BF16 to E4M3, one scale per 128x128 | [`quant::Quantize128x128`] |
//! | normalise | RMSNorm with residual, BF16 to BF16 or E4M3 | [`quant::RmsNorm`] |
//! | expert map (MoE) | top-k ids to rows sorted by expert, both ways | [`moe::ExpertMap`] |
//! | route tokens and map them (MoE) | the router and the expert map behind it, in fewer launches | [`moe::GateMap`] |
//! | gather and quantise (MoE) | rows of tokens by expert, BF16 to E4M3 | [`moe::GatherQuantize`] |
//! | gate, up and SwiGLU (MoE) | the grouped GEMM of gate and up, activated and quantised before it is stored | [`moe::GateUpSwiglu`] |
//! | SwiGLU and quantise (MoE) | `silu(gate) * up`, BF16 to E4M3 | [`moe::SwigluQuantize`] |
//! | combine (MoE) | weighted sum of the experts' rows of a token | [`moe::Combine`] |
//! | absorb MLA's up-projection | queries into the latent space of the cache, attention's results out of it | [`mla::MlaAbsorb`] |
//! | experts of a layer (MoE) | route, gather, gate and up with SwiGLU, down, combine, in one stream | [`moe::MoeLayer`] |
//! | merge attention states | attention over two parts of the keys, as one softmax gives it | [`mla::MergeStates`] |
//! | dequantise | E4M3 and its scales to BF16 | [`quant::Dequantize1x128`], [`quant::Dequantize128x128`] |
//! | transpose scales | `[m, k/128]` to the layout the GEMM reads | [`quant::TransposeScales`] |
//! | route tokens | scores, groups, the best K experts and their weights | [`router::Gate`] |
//! | MLA decode | attention over the paged latent cache, BF16 or FP8, split-KV | [`mla::MlaDecode`] |
//! | MLA prefill | attention of packed prompts with heads of their own, BF16 | [`mla::MlaPrefill`] |
//! | balance experts | counts, the bias update without a loss, the loss of a sequence | [`router::ExpertLoad`], [`router::BiasUpdate`], [`router::SequenceBalanceLoss`] |
//! | rotate (MLA) | rotary embedding of queries and keys, YaRN | [`mla::Rope`], [`mla::RopeTable`] |
//! | KV cache (MLA) | latent vectors and rotated keys to their rows, BF16 or E4M3 | [`mla::KvAppend`] |
//!
//! Three layers: a [`Device`] is a GPU or an emulated Hopper on the CPU, and runs the same kernel sources; a *view*
//! ([`Matrix`], [`Vector`], [`quant::Scales1x128`], ...) is a slice with a shape, checked once; a *plan* chooses a compiled
//! kernel for a shape and then runs on any stream, any number of times, without allocating or waiting. What a run needs
//! besides its operands is one of them: `scratch`, of the plan's `scratch_bytes()`.
//!
//! Slices are of the host for the emulator, of this crate's [`cudarc`] for a GPU, or by address ([`RawSlice`]).
#![deny(missing_docs, missing_debug_implementations)]

mod device;
pub mod error;
#[cfg(feature = "fake-driver")]
#[doc(hidden)]
pub mod fake_driver;
pub mod gemm;
mod launch;
pub mod mla;
pub mod moe;
#[cfg(test)]
mod predictions;
#[cfg(feature = "probes")]
#[doc(hidden)]
pub mod probe;
pub mod quant;
pub mod router;
mod setters;
#[doc(hidden)]
pub mod table;
mod tensor;
mod tuning;

pub use cudarc;
pub use float8::F8E4M3;
pub use half::bf16;

pub use device::{
    Buffer, DataFaults, Device, DeviceKind, EmulatorOptions, RawSlice, RawSliceMut, RawStream, Stream, counts,
};
#[doc(hidden)]
pub use device::{KernelAttributes, bindings};
pub use error::{Error, Result};
pub use launch::SCRATCH_ALIGN;
pub use tensor::{Element, Indices, Matrix, MatrixMut, Slice, SliceMut, Vector, VectorMut};
pub use tuning::Tuning;
