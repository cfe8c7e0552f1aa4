//! A routed batch: whose rows are whose, for the operations that work row by row.

use anyhow::Result;
use deepseek_kernels::moe::{ExpertLayout, ExpertMapSpec};
use deepseek_kernels::{DataFaults, F8E4M3};
use oracles::moe::Mapped;
use oracles::quant::Quantized;

use crate::case::fault_if;
use crate::judge::Check;
use crate::memory::{Align, Arena, Operand, Output, Scalar};

/// A map of tokens to rows, which a test may get wrong.
#[derive(Debug, Clone)]
pub struct Batch {
    pub spec: ExpertMapSpec,
    /// `row_route` covers all rows.
    pub map: Mapped,
}

impl Batch {
    pub fn rows(&self) -> usize {
        self.spec.rows()
    }

    /// What the operations read: ends of segments or counts.
    pub fn segments(&self) -> &[i32] {
        match self.spec.layout {
            ExpertLayout::Masked { .. } => &self.map.counts,
            ExpertLayout::Ragged | ExpertLayout::Aligned { .. } => &self.map.offsets,
        }
    }

    /// Whether an expert uses the row, whatever the segments say: they are cut to the rows there are. Padding of aligned
    /// segments counts.
    pub fn used(&self, row: usize) -> bool {
        match self.spec.layout {
            ExpertLayout::Masked { max_rows } => ((row % max_rows) as i32) < self.map.counts[row / max_rows],
            ExpertLayout::Ragged | ExpertLayout::Aligned { .. } => {
                (row as i32) < self.map.offsets[self.spec.local()]
            }
        }
    }

    /// The route of a row; none of padding, and none where it does not exist.
    pub fn route(&self, row: usize) -> Option<usize> {
        let routes = self.spec.tokens * self.spec.top_k;
        usize::try_from(self.map.row_route[row]).ok().filter(|&route| route < routes)
    }

    /// What an operation has to report: routes that do not exist of rows in use, if it reads routes; segments that leave the
    /// rows there are, if there are any; and what it met in its values.
    pub fn faults(&self, reads_routes: bool, nonfinite: bool) -> DataFaults {
        let (ends, most) = match self.spec.layout {
            ExpertLayout::Masked { max_rows } => (&self.map.counts[..], max_rows),
            ExpertLayout::Ragged | ExpertLayout::Aligned { .. } => {
                (&self.map.offsets[self.spec.local()..], self.rows())
            }
        };
        let cut = self.rows() > 0 && !ends.iter().all(|end| (0..=most as i32).contains(end));
        let astray = |row| self.used(row) && self.map.row_route[row] != -1 && self.route(row).is_none();
        let segment = cut || (reads_routes && (0..self.rows()).any(astray));
        fault_if(segment, DataFaults::SEGMENT) | fault_if(nonfinite, DataFaults::NONFINITE_INPUT)
    }
}

/// Codes `[rows, k]` and scales `[k/128, rows]` of the rows in use.
pub struct QuantizedRows {
    pub q: Operand<F8E4M3>,
    pub sf: Operand<f32>,
}

impl QuantizedRows {
    /// Rows of codes start as `codes` says.
    pub fn new(arena: &mut Arena<'_>, (rows, k): (usize, usize), codes: Align) -> Result<Self> {
        Ok(Self { q: arena.output((rows, k), codes)?, sf: arena.output((k.div_ceil(128), rows), Align(4))? })
    }

    pub fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("q", &self.q)?, Output::read("sf", &self.sf)?])
    }

    /// Of so many rows those in use are those of `expected`, and all others hold what they held.
    pub fn judge(
        &self,
        rows: usize,
        used: impl Fn(usize) -> bool,
        expected: &Quantized,
    ) -> Result<Vec<Check>> {
        let mut expected = expected.clone();
        let k = expected.q.len() / rows.max(1);
        let (q, sf) = (self.q.values()?, self.sf.values()?);
        let (mut spare, mut written) = (0, None);
        for row in (0..rows).filter(|&row| !used(row)) {
            let scales = || (0..k.div_ceil(128)).map(|g| g * rows + row);
            let codes = row * k..(row + 1) * k;
            let held = q[codes.clone()].iter().all(|x| x.bits() == F8E4M3::SENTINEL.bits())
                && scales().all(|i| sf[i].bits() == f32::SENTINEL.bits());
            if !held {
                written.get_or_insert_with(|| format!("row {row} of no expert was written"));
            }
            // It has been looked at.
            scales().for_each(|i| expected.sf[i] = sf[i]);
            expected.q[codes.clone()].copy_from_slice(&q[codes]);
            spare += k;
        }
        Ok(vec![
            Check::equal("untouched", spare, written),
            self.sf.equals("scales", "sf", &expected.sf)?,
            self.q.equals("codes", "q", &expected.q)?,
        ])
    }
}
