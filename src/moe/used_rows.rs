//! The rows that experts use, for kernels that work row by row.

use crate::device::bindings::UsedRows;
use crate::error::Result;
use crate::gemm::Segments;
use crate::launch::{Layout, MAX_DIM, Operand, check_limit};
use crate::table::MAX_EXPERTS;

/// Fails unless kernels can count tokens, the routes of a token, and all routes.
pub(crate) fn check_routes(tokens: usize, top_k: usize) -> Result<()> {
    check_limit("tokens", tokens as u64, MAX_DIM)?;
    check_limit("top_k", top_k as u64, MAX_DIM)?;
    check_limit("tokens * top_k", tokens.saturating_mul(top_k) as u64, MAX_DIM)
}

/// Rows of `experts` experts; how many are in use stands on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertRows {
    experts: usize,
    segments: Segments,
    total: usize,
}

impl ExpertRows {
    pub fn new(experts: usize, segments: Segments) -> Result<Self> {
        check_limit("experts", experts as u64, MAX_EXPERTS.into())?;
        let total = match segments {
            Segments::Ragged { rows } => rows,
            Segments::Masked { max_rows } => {
                check_limit("max_rows", max_rows as u64, MAX_DIM)?;
                experts.saturating_mul(max_rows)
            }
        };
        check_limit("rows", total as u64, MAX_DIM)?;
        Ok(Self { experts, segments, total })
    }

    /// Rows there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The operand `segments`.
    pub fn layout(&self) -> Layout {
        self.segments.layout(self.experts)
    }

    /// What the kernel gets of that operand.
    pub fn params(&self, segments: Operand<*const i32>) -> UsedRows {
        let max_rows = match self.segments {
            Segments::Ragged { .. } => 0,
            Segments::Masked { max_rows } => max_rows as u32,
        };
        let (total, experts) = (self.total as u32, self.experts as u32);
        UsedRows { rows: segments.pointer, total, experts, max_rows, ..Default::default() }
    }
}
