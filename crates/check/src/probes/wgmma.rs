//! One `wgmma` and the sum that the model of the tensor core gives for every element of its result.

use std::array::from_fn;

use rayon::prelude::*;

use super::convert::same;
use super::{Difference, Findings};
use deepseek_kernels::Device;
use deepseek_kernels::Result;
use deepseek_kernels::probe::kernels::WGMMA;
use deepseek_kernels::probe::{MapElement, Probe, Swizzle, Tensor};
use deepseek_kernels::{F8E4M3, bf16};
use oracles::codec::{encode_bf16, encode_e4m3};
use oracles::tensor_core::{fused_dot_bf16, fused_dot_e4m3};

/// Bytes of a row of A or B.
pub const ROW: usize = 128;
/// Bytes of a row that one `wgmma` reads.
pub const STEP: usize = 32;
/// Columns of B that are tried.
pub const WIDTHS: [usize; 10] = [8, 16, 32, 64, 96, 128, 144, 160, 192, 256];

/// Types of A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// E4M3, both K-major.
    E4m3,
    /// BF16, both K-major.
    Bf16,
    /// BF16 and B N-major, in chunks of 64 columns that are so many bytes apart.
    Bf16Mn(u32),
    /// The same, chunks one after the other, and A in registers.
    Bf16RsMn,
}
use Operands::{Bf16, Bf16Mn, Bf16RsMn, E4m3};

/// Bytes of 64 rows of 64 columns: chunks one after the other.
pub const DENSE: u32 = 64 * 128;

/// What the probe does wrong in the descriptor of an N-major B.
#[derive(Debug, Clone, Copy)]
pub enum Slip {
    /// Nothing.
    None,
    /// It says K-major.
    Major,
    /// It says that nothing is swizzled.
    Swizzle,
    /// Chunks lie one atom further apart.
    NextAtom,
    /// Chunks lie outside the CTA's shared memory.
    FarAway,
}

impl Operands {
    /// Values as they lie in memory, rounded to the type.
    pub fn encode(self, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        match self {
            E4m3 => values.into_iter().map(encode_e4m3).collect(),
            Bf16 | Bf16Mn(_) | Bf16RsMn => {
                values.into_iter().flat_map(|x| encode_bf16(x).to_le_bytes()).collect()
            }
        }
    }

    /// Elements of a row.
    pub fn row_elements(self) -> usize {
        match self {
            E4m3 => ROW,
            Bf16 | Bf16Mn(_) | Bf16RsMn => ROW / 2,
        }
    }

    /// One k step of the reference.
    pub fn fused_dot(self, a: &[u8], b: &[u8], c: f32) -> f32 {
        let wide = |bytes: &[u8], i: usize| bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        match self {
            E4m3 => fused_dot_e4m3(
                &from_fn(|i| F8E4M3::from_bits(a[i])),
                &from_fn(|i| F8E4M3::from_bits(b[i])),
                c,
            ),
            Bf16 | Bf16Mn(_) | Bf16RsMn => {
                fused_dot_bf16(&from_fn(|i| wide(a, i)), &from_fn(|i| wide(b, i)), c)
            }
        }
    }
}

/// One launch: `grid` tiles of 64 x n.
#[derive(Debug, Clone)]
pub struct Case {
    /// Types of A and B.
    pub operands: Operands,
    /// Columns of a tile.
    pub n: usize,
    /// Tiles.
    pub grid: usize,
    /// A: 64 rows of 128 bytes a tile.
    pub a: Vec<u8>,
    /// B: n rows of 128 bytes a tile.
    pub b: Vec<u8>,
    /// D before, `[grid, 64, n]`.
    pub d: Vec<f32>,
    /// Adds to D, or overwrites it.
    pub keep: bool,
    /// Of the four steps of a row, the first.
    pub first_step: usize,
    /// How many of them.
    pub steps: usize,
    /// Times that they are added.
    pub repeats: usize,
}

impl Case {
    /// D after the launch.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn run(&self, device: &Device) -> Result<Vec<f32>> {
        let outcome = self.with_probe(Slip::None, |probe| probe.run(device))?;
        Ok(outcome.output.into_iter().map(f32::from_bits).collect())
    }

    /// Columns of an N-major B in memory.
    fn columns(&self) -> usize {
        self.n.max(64)
    }

    /// B as rows of K, and NaN where no product may look.
    fn b_n_major(&self) -> Vec<u8> {
        let mut rows = 0x7fff_u16.to_le_bytes().repeat(self.grid * 64 * self.columns());
        for (column, codes) in self.b.chunks(ROW).enumerate() {
            for (k, code) in codes.chunks(2).enumerate() {
                let element = (column / self.n * 64 + k) * self.columns() + column % self.n;
                rows[2 * element..][..2].copy_from_slice(code);
            }
        }
        rows
    }

    /// Hands over the launch, with a slip in B's descriptor.
    pub fn with_probe<T>(&self, slip: Slip, run: impl FnOnce(&Probe) -> T) -> T {
        let map = |memory: Vec<u8>, row_bytes: usize, box_rows: usize| Tensor {
            element: MapElement::U8,
            swizzle: Swizzle::Span128,
            dims: vec![row_bytes as u64, (memory.len() / row_bytes) as u64],
            strides: vec![row_bytes as u64],
            box_sizes: vec![ROW as u32, box_rows as u32],
            memory,
        };
        let (operands, chunk_bytes, b) = match self.operands {
            E4m3 => (0, 0, map(self.b.clone(), ROW, self.n)),
            Bf16 => (1, 0, map(self.b.clone(), ROW, self.n)),
            Bf16Mn(chunk_bytes) => (2, chunk_bytes, map(self.b_n_major(), 2 * self.columns(), 64)),
            Bf16RsMn => (3, DENSE, map(self.b_n_major(), 2 * self.columns(), 64)),
        };
        let [n, first_step, steps, repeats] =
            [self.n, self.first_step, self.steps, self.repeats].map(|x| x as u32);
        run(&Probe {
            arguments: &[
                n,
                operands,
                first_step,
                steps,
                u32::from(self.keep),
                repeats,
                chunk_bytes,
                slip as u32,
            ],
            input: &self.d.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            output_words: self.d.len(),
            loads: &[map(self.a.clone(), ROW, 64), b],
            ..Probe::new(WGMMA, self.grid as u32)
        })
    }

    /// Rows of A and B that meet in element `index` of D.
    fn rows(&self, index: usize) -> (&[u8], &[u8]) {
        let (row, tile) = (index / self.n, index / self.n / 64);
        (&self.a[row * ROW..][..ROW], &self.b[(tile * self.n + index % self.n) * ROW..][..ROW])
    }

    /// What the model gives for element `index` of D.
    pub fn expected(&self, index: usize) -> f32 {
        self.sum(index, if self.keep { self.d[index] } else { 0.0 })
    }

    /// Element `index` of the product, added to `d`.
    pub fn sum(&self, index: usize, mut d: f32) -> f32 {
        let (a, b) = self.rows(index);
        for _ in 0..self.repeats {
            for step in self.first_step..self.first_step + self.steps {
                let bytes = step * STEP..(step + 1) * STEP;
                d = self.operands.fused_dot(&a[bytes.clone()], &b[bytes], d);
            }
        }
        d
    }

    /// Every element of D against the model.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn check(&self, device: &Device) -> Result<Findings> {
        self.check_with(device, same)
    }

    /// As [`Case::check`], with another meaning of "the same".
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn check_with(&self, device: &Device, same: impl Fn(f32, f32) -> bool + Sync) -> Result<Findings> {
        let got = self.run(device)?;
        let expected: Vec<f32> = (0..got.len()).into_par_iter().map(|index| self.expected(index)).collect();
        let show = |x: f32| format!("{x:e} ({:#010x})", x.to_bits());
        Ok(Findings::of(
            got.len(),
            |index| same(got[index], expected[index]),
            |index| Difference {
                inputs: self.describe(index),
                expected: show(expected[index]),
                got: show(got[index]),
            },
        ))
    }

    fn describe(&self, index: usize) -> String {
        let (a, b) = self.rows(index);
        let steps = STEP * self.first_step..STEP * (self.first_step + self.steps);
        let d = if self.keep {
            format!("{:e} ({:#010x})", self.d[index], self.d[index].to_bits())
        } else {
            "0".to_owned()
        };
        format!(
            "{:?} n {} [{}, {}] of tile {}: d {d} + {} x a {:02x?} . b {:02x?}",
            self.operands,
            self.n,
            index / self.n % 64,
            index % self.n,
            index / self.n / 64,
            self.repeats,
            &a[steps.clone()],
            &b[steps],
        )
    }
}
