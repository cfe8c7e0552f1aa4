//! CPU references, test inputs and oracles: obviously right loops that depend on nothing else in the crate.
//!
//! A result is judged by three elementwise [oracles](Oracle), from the strictest input to the weakest:
//! exact integers, a bit model of Hopper's tensor core, and an a-priori error bound for any correct kernel.
//! Every reference starts from the *stored* operands, never from the values before quantisation.

mod balance;
pub mod codec;
mod combine;
mod exp;
mod expert_map;
mod fp8_gemm;
mod fused_dot;
mod gate;
pub mod inputs;
mod kv_cache;
mod log1p;
mod merge_states;
mod mla_absorb;
mod mla_decode;
mod mla_step;
mod moe_layer;
mod oracle;
mod quantize;
mod rope;
mod swiglu;

pub use balance::{bias_update, expert_load, max_vio, sequence_balance_loss};
pub use combine::{Combined, combine};
pub use exp::{exp_f32, sigmoid_f32};
pub use expert_map::{MapLayout, Mapped, expert_map};
pub use fp8_gemm::{
    Bounded, Elements, Epilogue, NotExact, Operands, Output, Sample, Special, bit_model, bound, exact,
    reference,
};
pub use fused_dot::{NAN, fused_dot_bf16, fused_dot_e4m3};
pub use gate::{
    GateModel, GateOptions, Routed, gate_logits, gate_logits_bound, gate_select, gate_weights_bound,
};
pub use kv_cache::{Appended, kv_append_bf16, kv_append_fp8};
pub use log1p::log1p_f32;
pub use merge_states::{State, merge_states, merge_states_bound};
pub use mla_absorb::{HeadProduct, Side};
pub use mla_decode::{MlaBounded, MlaSequence, dequantize_kv_fp8, gather_pages, mla_decode};
pub use mla_step::{ExpandedKv, MlaStep};
pub use moe_layer::{ExpertMatrices, MoeLayerModel, MoeLayerOutput, moe_layer};
pub use oracle::{FlashMlaBar, FlashMlaVerdict, Mismatch, Oracle, Verdict, calc_diff};
pub use quantize::{QuantizeScale, Quantized, quantize_1x128, quantize_128x128};
pub use rope::rope;
pub use swiglu::{swiglu, swiglu_quantize};

/// Elements of K that share one scale, and that are summed between two promotions.
pub const BLOCK: usize = 128;

/// A slice or dimension that does not fit the shape it was given with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A slice has the wrong length.
    #[error("expected {expected} elements of {operand}, got {got}")]
    Length {
        /// Name of the operand.
        operand: &'static str,
        /// Elements that the shape asks for.
        expected: usize,
        /// Elements in the slice.
        got: usize,
    },
    /// K is not a multiple of [`BLOCK`].
    #[error("expected k to be a multiple of {BLOCK}, got {0}")]
    K(usize),
    /// Rows overlap.
    #[error("expected a pitch of at least k = {k} elements, got {pitch}")]
    Pitch {
        /// Elements per row.
        k: usize,
        /// Elements from row to row.
        pitch: usize,
    },
}

fn check_length(operand: &'static str, expected: usize, got: usize) -> Result<(), ShapeError> {
    if got == expected { Ok(()) } else { Err(ShapeError::Length { operand, expected, got }) }
}

fn check_k(k: usize) -> Result<(), ShapeError> {
    if k.is_multiple_of(BLOCK) { Ok(()) } else { Err(ShapeError::K(k)) }
}

/// 2^`exponent` for an exponent of a normal `f64`.
const fn pow2(exponent: i32) -> f64 {
    assert!(exponent > -1023 && exponent < 1024);
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// `floor(log2 |x|)` of a normal `f64`.
const fn floor_log2(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}
