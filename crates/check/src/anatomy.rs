//! Results taken apart: what a diagnosis asks of an operation.

use std::ops::Range;

use anyhow::Result;

use crate::memory::Output;
use crate::regress::diagnosis::Bug;

/// What is known of a result apart from what a run gave: who computes what of it, and from what.
pub trait Anatomy {
    /// What a right run writes, in the order of [`Prepared::outputs`](crate::case::Prepared::outputs); an element that no run
    /// writes holds its sentinel.
    ///
    /// # Errors
    /// Of the sizes.
    fn expected(&self) -> Result<Vec<Output>>;

    /// How CTAs and warpgroups share the first output.
    fn tiling(&self) -> Tiling;

    /// Values of the first output by formulas that are wrong in ways which kernels have been wrong in.
    fn hypotheses(&self) -> Vec<Hypothesis<'_>>;
}

/// How a matrix is shared by CTAs and their warpgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiling {
    /// Rows that belong together, what they are called, and the row from which their tiles are counted.
    pub segments: Vec<Segment>,
    /// Rows and columns of a tile.
    pub tile: (usize, usize),
    /// Rows and columns of what a warpgroup computes of a tile.
    pub warpgroup: (usize, usize),
}

/// Rows of an expert, of a sequence, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// `expert 3`; empty for all there is.
    pub name: String,
    pub rows: Range<usize>,
    /// Where its first tile begins, which may be before its rows.
    pub first: usize,
}

/// What a bug would give in place of an element, and which bug that is.
pub struct Hypothesis<'p> {
    pub bug: Bug,
    /// More of what is wrong: `K block 3`.
    pub detail: String,
    /// The element of a row and a column, before it is rounded; none where the bug could not be.
    pub value: Box<dyn Fn(usize, usize) -> Option<f64> + 'p>,
}
