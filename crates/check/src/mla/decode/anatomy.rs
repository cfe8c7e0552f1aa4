//! A step taken apart: rows of a sequence in tiles, columns by warpgroups.

use std::ops::Range;

use anyhow::Result;
use deepseek_kernels::bf16;
use oracles::mla::{Approximations, mla_decode_bits};

use super::{MlaDecodeProblem, MlaDecodeRun};
use crate::anatomy::{Anatomy, Hypothesis, Segment, Tiling};
use crate::memory::{Output, Scalar};
use crate::mla::LATENT;

/// Rows of Q that a CTA has, and columns of the result that a warpgroup of it has.
const TILE_ROWS: usize = 64;
const WARPGROUP_COLUMNS: usize = LATENT / 2;

impl MlaDecodeProblem {
    /// Rows of a sequence in the result.
    fn segment(&self, sequence: usize) -> Range<usize> {
        let Range { start, end } = self.queries(sequence);
        start * self.spec.heads..end * self.spec.heads
    }

    /// The result to the bit, of a machine whose approximations are rounded; the logarithms are not told.
    pub(super) fn expected_out(&self) -> Result<Output> {
        let mut out = vec![bf16::SENTINEL; self.tokens() * self.spec.heads * LATENT];
        let width = self.case.key();
        for sequence in 0..self.spec.batch {
            let rows = self.segment(sequence);
            let (q, keys) = (&self.q[rows.start * width..rows.end * width], self.keys(sequence)?);
            let all: Vec<usize> = (0..rows.len()).collect();
            let step = self.sequence(sequence, q, &keys, self.spec.heads);
            let bits = mla_decode_bits(&step, &all, Approximations::ROUNDED)?;
            out[rows.start * LATENT..rows.end * LATENT].copy_from_slice(&bits.out);
        }
        Ok(Output::of("out", LATENT, &out))
    }

    fn tiling(&self) -> Tiling {
        let segment = |sequence: usize| {
            let rows = self.segment(sequence);
            Segment { name: format!("sequence {sequence}"), first: rows.start, rows }
        };
        Tiling {
            segments: (0..self.spec.batch).map(segment).collect(),
            tile: (TILE_ROWS, LATENT),
            warpgroup: (TILE_ROWS, WARPGROUP_COLUMNS),
        }
    }
}

impl Anatomy for MlaDecodeRun {
    fn expected(&self) -> Result<Vec<Output>> {
        Ok(vec![self.problem.expected_out()?])
    }

    fn tiling(&self) -> Tiling {
        self.problem.tiling()
    }

    /// A softmax has no terms that a bug would leave out alone.
    fn hypotheses(&self) -> Vec<Hypothesis<'_>> {
        Vec::new()
    }
}
