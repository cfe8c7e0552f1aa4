//! Seeded random matrices: the same bytes for the same seed everywhere.

use float8::F8E4M3;
use half::bf16;
use rand::{Rng, RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// Random sequences that do not depend on each other.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    A,
    B,
    ScaleA,
    ScaleB,
    Columns,
}

/// Fills row `index` of a matrix.
pub(crate) type RowFill<'a> = dyn Fn(&mut Xoshiro256PlusPlus, usize, &mut [F8E4M3]) + Sync + 'a;

/// What becomes of a normal sample at a column.
pub(crate) type Shape<'a> = dyn Fn(f32, usize) -> f32 + Sync + 'a;

#[derive(Clone, Copy)]
pub(crate) struct Seed(pub u64);

impl Seed {
    /// A generator of its own per stream and row, so that rows can be filled in parallel.
    pub fn rng(self, stream: Stream, row: u64) -> Xoshiro256PlusPlus {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&(stream as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&row.to_le_bytes());
        let mut rng = Xoshiro256PlusPlus::from_seed(bytes);
        // A state that differs in few bits needs some steps before its outputs differ in many.
        for _ in 0..16 {
            rng.next_u64();
        }
        rng
    }

    pub fn matrix(self, stream: Stream, rows: usize, k: usize, fill: &RowFill) -> Vec<F8E4M3> {
        let mut matrix = vec![F8E4M3::from_bits(0); rows * k];
        let rows = matrix.par_chunks_mut(k.max(1)).enumerate();
        rows.for_each(|(index, row)| fill(&mut self.rng(stream, index as u64), index, row));
        matrix
    }

    pub fn normal(self, stream: Stream, rows: usize, k: usize, shape: &Shape) -> Vec<bf16> {
        let mut matrix = vec![bf16::ZERO; rows * k];
        let fill = |(index, row): (usize, &mut [bf16])| {
            let mut rng = self.rng(stream, index as u64);
            for (column, x) in row.iter_mut().enumerate() {
                *x = bf16::from_f32(shape(rng.sample(StandardNormal), column));
            }
        };
        matrix.par_chunks_mut(k.max(1)).enumerate().for_each(fill);
        matrix
    }
}
