//! The operands of a decode step.

use half::bf16;

#[cfg(doc)]
use super::MlaDecode;
use super::spec::SplitShape;
#[cfg(doc)]
use crate::device::Device;
use crate::mla::cache::KvCache;
use crate::tensor::{Indices, Matrix, MatrixMut, SliceMut, VectorMut};

/// Operands of a schedule.
#[derive(Debug)]
pub struct MlaScheduleArgs<'a> {
    /// On the device: `[batch]`, the keys of every sequence, its query tokens included. A length that the pages cannot hold, or
    /// below 0, is cut to the pages or to 0, and [`Device::poll_error`] tells of it; what does not fit `i32` counts as below 0.
    /// See [`MlaDecodeSpec::total_keys`](super::MlaDecodeSpec::total_keys) for all of them.
    pub lengths: Indices<'a>,
    /// On the device: `[batch + 1]`, the first query token of every sequence, and the one behind the last sequence's. What is less
    /// than one before counts as that, more than there are tokens as all of them; of more than
    /// [`q_tokens`](super::MlaDecodeSpec::q_tokens) the first ones count, and [`Device::poll_error`] tells of all these. None if,
    /// and only if, [`packed_tokens`](super::MlaDecodeSpec::packed_tokens) is.
    pub q_offsets: Option<Indices<'a>>,
    /// `[tables]`, see [`MlaDecode::tables`]: what the schedule leaves for the attention.
    pub tables: VectorMut<'a, u32>,
}

/// Operands of an attention. Addresses and pitches of q and out are multiples of 16 bytes.
#[derive(Debug)]
pub struct MlaAttendArgs<'a> {
    /// `[tokens * heads, 576]`: 512 absorbed, 64 rotated; of keys without a position 512. A sequence's tokens follow one another,
    /// and sequences do.
    pub q: Matrix<'a, bf16>,
    /// The keys; for a contiguous cache `[batch * capacity, ..]`.
    pub cache: KvCache<'a>,
    /// On the device: `[batch, pages_per_sequence]`. Entries past the end of a sequence are not read. None if, and only
    /// if, the cache is contiguous.
    pub page_table: Option<Indices<'a>>,
    /// See [`MlaDecode::scratch_bytes`].
    pub scratch: SliceMut<'a, u8>,
    /// `[tokens * heads, 512]`.
    pub out: MatrixMut<'a, bf16>,
    /// `[tokens, heads]`, or in another [order](super::MlaDecodeSpec::lse_order): the natural logarithm of the sum of `e^score`.
    pub lse: MatrixMut<'a, f32>,
}

/// Operands of a step: those of its schedule and its attention.
#[derive(Debug)]
pub struct MlaDecodeArgs<'a> {
    /// Which keys there are.
    pub schedule: MlaScheduleArgs<'a>,
    /// What is computed of them.
    pub attend: MlaAttendArgs<'a>,
}

/// The splits of a step's sequences, found on the device: the same for all layers. Made by [`MlaDecode::schedule`], so that
/// they are those of some lengths.
#[derive(Debug)]
pub struct MlaSplits<'a> {
    pub(super) tables: VectorMut<'a, u32>,
    pub(super) shape: SplitShape,
}
