//! The cases, one file per family.

mod attention;
mod gemm;
mod grouped;
mod kv_cache;
mod merge;
mod moe;
mod projections;
mod quantizers;

pub use attention::AttentionCase;
pub use gemm::GemmCase;
pub use grouped::GroupedCase;
pub use kv_cache::{AppendCase, RopeCase};
pub use merge::MergeCase;
pub use moe::MoeCase;
pub use projections::{AbsorbCase, Side};
pub use quantizers::{QuantizeCase, Quantizer};

/// Everything is drawn from this seed.
const SEED: u64 = 9;

/// The first `rows` of a matrix that repeats the rows of `from` again and again: large operands are drawn in no time, and
/// their values do not matter for time, their memory does.
fn repeated<T: Copy>(from: &[T], columns: usize, rows: usize) -> Vec<T> {
    let mut matrix = from.repeat((rows * columns).div_ceil(from.len().max(1)));
    matrix.truncate(rows * columns);
    matrix
}

/// Columns of scales of A: rows of a multiple of 16 bytes, as TMA wants.
fn scale_pitch(m: usize) -> usize {
    m.next_multiple_of(4)
}
