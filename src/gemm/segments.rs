//! Whose rows are whose.

use crate::device::bindings::{Fp8GemmParams, GroupedFp8GemmParams};
use crate::launch::{Layout, Operand};

/// How the rows of A and D are divided among the experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Segments {
    /// One segment after another, of any length, none included: expert e has the rows from `segments[e]` to
    /// `segments[e + 1]`.
    Ragged {
        /// Rows of A and D; those past the last segment are not touched.
        rows: usize,
    },
    /// Every expert has room for `max_rows` rows, and uses the first `segments[e]` of them.
    Masked {
        /// Rows per expert.
        max_rows: usize,
    },
}

impl Segments {
    /// The operand that says which rows are in use.
    pub(crate) fn layout(self, experts: usize) -> Layout {
        match self {
            Self::Ragged { .. } => Layout::vector("segments [experts + 1]", experts + 1),
            Self::Masked { .. } => Layout::vector("segments [experts]", experts),
        }
    }

    /// What a kernel gets of that operand, for the rows of which `gemm` multiplies.
    pub(crate) fn params(
        self,
        gemm: Fp8GemmParams,
        experts: usize,
        segments: Operand<*const i32>,
        error_words: *mut u32,
    ) -> GroupedFp8GemmParams {
        let (ragged, max_rows) = match self {
            Self::Ragged { .. } => (1, 0),
            Self::Masked { max_rows } => (0, max_rows as u32),
        };
        let (rows, experts) = (segments.pointer, experts as u32);
        GroupedFp8GemmParams { gemm, rows, error_words, experts, ragged, max_rows, ..Default::default() }
    }
}
