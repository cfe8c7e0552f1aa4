//! Hand-written Hopper kernels for DeepSeek-style models, behind safe wrappers.
//!
//! | operation | computes | plan |
//! |---|---|---|
//! | FP8 block-scaled GEMM | `D = sum over K blocks of sfa * sfb * (A . B^T)` | [`Fp8Gemm`] |
//! | grouped GEMM (MoE) | the same for the rows of each expert, which the device finds itself | [`GroupedFp8Gemm`] |
//! | quantise activations | BF16 to E4M3, one scale per 1x128 | [`Quantize1x128`] |
//! | quantise weights | BF16 to E4M3, one scale per 128x128 | [`Quantize128x128`] |
//! | expert map (MoE) | top-k ids to rows sorted by expert, both ways | [`ExpertMap`] |
//! | gather and quantise (MoE) | rows of tokens by expert, BF16 to E4M3 | [`GatherQuantize`] |
//! | SwiGLU and quantise (MoE) | `silu(gate) * up`, BF16 to E4M3 | [`SwigluQuantize`] |
//! | combine (MoE) | weighted sum of the experts' rows of a token | [`Combine`] |
//! | absorb MLA's up-projection | queries into the latent space of the cache, attention's results out of it | [`MlaAbsorb`] |
//! | merge attention states | attention over two parts of the keys, as one softmax gives it | [`MergeStates`] |
//! | transpose scales | `[m, k/128]` to the layout the GEMM reads | [`TransposeScales`] |
//! | route tokens | scores, groups, the best K experts and their weights | [`Gate`] |
//! | MLA decode | attention over the paged latent cache, BF16 or FP8, split-KV | [`MlaDecode`] |
//! | balance experts | counts, the bias update without a loss, the loss of a sequence | [`ExpertLoad`], [`BiasUpdate`], [`SequenceBalanceLoss`] |
//! | rotate (MLA) | rotary embedding of queries and keys, YaRN | [`Rope`], [`RopeTable`] |
//! | KV cache (MLA) | latent vectors and rotated keys to their rows, BF16 or E4M3 | [`KvAppend`] |
//!
//! Three layers: a [`Device`] is a GPU or an emulated Hopper on the CPU, and runs the same kernel sources; a *view*
//! ([`Matrix`], [`Scales1x128`], ...) is a slice with a shape, checked once; a *plan* chooses a compiled kernel for a
//! shape and then runs on any stream, any number of times, without allocating or waiting.
//!
//! ```
//! use deepseek_kernels::{Device, Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, Matrix, MatrixMut, MMajor, Scales128x128, Scales1x128, Stream, F8E4M3};
//!
//! # fn main() -> Result<(), deepseek_kernels::Error> {
//! # if Device::emulated().is_err() { return Ok(()); }
//! let device = Device::emulated()?; // or Device::gpu(&context)?
//! let (m, n, k) = (3, 16, 128);
//! let (a, b) = (vec![F8E4M3::ONE; m * k], vec![F8E4M3::ONE; n * k]);
//! let (sfa, sfb) = (vec![0.5; 4], vec![2.0]); // sfa: [k/128, m] with a pitch of 4
//! let mut d = vec![0.0_f32; m * n];
//!
//! let gemm = Fp8Gemm::<f32>::plan(&device, Fp8GemmSpec { m, n, k, accumulate: false })?;
//! let args = Fp8GemmArgs {
//!     a: Matrix::new(&a, m, k)?,
//!     sfa: Scales1x128::<MMajor>::with_pitch(&sfa, m, k, 4)?,
//!     b: Matrix::new(&b, n, k)?,
//!     sfb: Scales128x128::new(&sfb, n, k)?,
//!     d: MatrixMut::new(&mut d, m, n)?,
//! };
//! gemm.run(Stream::Emulated, args)?;
//! assert!(d.iter().all(|&x| x == 128.0));
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod balance;
mod buffer;
mod combine;
mod device;
mod error;
mod expert_map;
mod ffi;
mod fp8_gemm;
mod gate;
mod gather_quantize;
mod gemm;
mod gpu;
mod grouped_fp8_gemm;
mod instances;
mod kv_append;
mod launch;
mod merge_states;
mod mla_absorb;
mod mla_cache;
mod mla_decode;
mod moe_layer;
#[cfg(feature = "probes")]
#[doc(hidden)]
pub mod probe;
mod quantize;
#[cfg(feature = "reference")]
pub mod reference;
mod rope;
mod rope_table;
mod scales;
mod swiglu;
mod tensor;
mod tensor_map;
mod used_rows;

pub use cudarc;
pub use float8::F8E4M3;
pub use half::bf16;

pub use balance::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, SequenceBalanceLoss, SequenceBalanceLossSpec,
};
pub use buffer::Buffer;
pub use combine::{Combine, CombineArgs, CombineSpec};
pub use device::{DataFaults, Device, DeviceKind, EmulatorOptions, Stream};
pub use error::{Error, Result};
pub use expert_map::{ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec};
pub use fp8_gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec};
pub use gate::{Gate, GateInput, GateSpec, GateWeight, GroupScore, Routing, Scoring};
pub use gather_quantize::{GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec};
pub use gemm::{GemmChoice, GemmOutput};
#[doc(hidden)]
pub use gpu::KernelAttributes;
pub use grouped_fp8_gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments};
pub use instances::{
    GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, GemmInstance, MAX_EXPERTS, MLA_INSTANCES, MlaInstance,
    OutputType, Schedule,
};
pub use kv_append::{KvAppend, KvAppendArgs, KvAppendSpec};
pub use merge_states::{AttentionState, AttentionStateMut, MergeStates, MergeStatesSpec};
pub use mla_absorb::{AbsorbOutputArgs, AbsorbQueryArgs, MlaAbsorb, MlaAbsorbSpec};
pub use mla_cache::{KvCache, KvCacheMut, KvFormat};
pub use mla_decode::{
    DEFAULT_SPLIT_TOKENS, EmptyLse, KvPaging, MAX_HEADS, MAX_Q_TOKENS, MlaChoice, MlaDecode, MlaDecodeArgs,
    MlaDecodeSpec, MlaSplits,
};
pub use moe_layer::{ExpertWeights, MoeLayer, MoeLayerArgs, MoeLayerSpec};
pub use quantize::{Quantize1x128, Quantize128x128, QuantizeSpec, ScaleFormat};
pub use rope::{Heads, HeadsMut, Rope, RopeArgs, RopeSpec};
pub use rope_table::{RopeTable, YarnRope};
pub use scales::{
    MMajor, RowMajor, ScaleLayout, Scales1x128, Scales1x128Mut, Scales128x128, Scales128x128Mut,
    TransposeScales,
};
pub use swiglu::{RoutingWeights, SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec};
pub use tensor::{Element, Matrix, MatrixMut, Slice, SliceMut};
