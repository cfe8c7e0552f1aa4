//! The rows that experts use, for kernels that work row by row.

use crate::device::bindings::UsedRows;
use crate::error::Result;
use crate::gemm::Segments;
use crate::launch::{Address, MAX_DIM, check_limit};
use crate::table::MAX_EXPERTS;
use crate::tensor::Extent;

/// Rows of `experts` experts; how many are in use stands on the device.
#[derive(Clone, Copy)]
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
            Segments::Masked { max_rows } => experts.saturating_mul(max_rows),
        };
        check_limit("rows", total as u64, MAX_DIM)?;
        Ok(Self { experts, segments, total })
    }

    /// Rows there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Checks the operand `segments`.
    pub fn check(&self, extent: &Extent) -> Result<()> {
        match self.segments {
            Segments::Ragged { .. } => extent.expect("segments [1, experts + 1]", 1, self.experts + 1),
            Segments::Masked { .. } => extent.expect("segments [1, experts]", 1, self.experts),
        }
    }

    /// What the kernel gets, with the address of that operand.
    pub fn params(&self, rows: Address) -> UsedRows {
        let max_rows = match self.segments {
            Segments::Ragged { .. } => 0,
            Segments::Masked { max_rows } => max_rows as u32,
        };
        let (total, experts) = (self.total as u32, self.experts as u32);
        UsedRows { rows: rows.cast(), total, experts, max_rows, ..Default::default() }
    }
}
