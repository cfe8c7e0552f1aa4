//! What is right: CPU references, bit models, error bounds, and seeded inputs. Obviously right loops that know nothing of
//! the crate they judge, not one type of it.
//!
//! A result is judged by three elementwise oracles, from the strictest input to the weakest: exact integers, a bit model of
//! Hopper's tensor core, and an a-priori error bound for any correct kernel ([`gemm::Oracle`]). Every reference starts from
//! the *stored* operands, never from the values before quantisation.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod codec;
mod exp;
pub mod gemm;
mod log1p;
pub mod mla;
pub mod moe;
pub mod quant;
mod random;
pub mod router;
pub mod tensor_core;
pub mod verdict;

pub use exp::{exp_f32, sigmoid_f32, sqrt_softplus_f32};
pub use log1p::log1p_f32;

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

/// Blocks of a row of `k`; the last one may be short.
pub const fn blocks(k: usize) -> usize {
    k.div_ceil(BLOCK)
}

/// Block `g` of a row.
fn block<T>(row: &[T], g: usize) -> &[T] {
    &row[g * BLOCK..row.len().min((g + 1) * BLOCK)]
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
