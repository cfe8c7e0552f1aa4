//! Whose rows are whose.

use crate::launch::Layout;

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
}
