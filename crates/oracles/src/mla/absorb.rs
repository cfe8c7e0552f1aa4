use half::bf16;
use rayon::prelude::*;

use crate::tensor_core::fused_dot_bf16;
use crate::{ShapeError, check_length, pow2};

/// Columns of a head's query: not rotated, rotated; of its value; of the latent space.
const NOPE: usize = 128;
const ROPE: usize = 64;
const VALUE: usize = 128;
const LATENT: usize = 512;
/// Products of one fused sum of the tensor core.
const STEP: usize = 16;

/// Which of MLA's absorbed projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `q_latent[t, h, n] = sum over k of q[t, h, k] * w[h, k, n]`.
    Query,
    /// `out[t, h, n] = sum over k of latent[t, h, k] * w[h, 128 + n, k]`.
    Output,
}

/// A projection of all heads, checked for its shape.
#[derive(Clone, Copy, Debug)]
pub struct HeadProduct<'a> {
    side: Side,
    a: &'a [bf16],
    w: &'a [bf16],
    heads: usize,
}

impl<'a> HeadProduct<'a> {
    /// a: `[tokens, heads, 192]` of which 128 columns count, or `[tokens, heads, 512]`; w: `[heads, 256, 512]`.
    pub fn new(
        side: Side,
        a: &'a [bf16],
        w: &'a [bf16],
        tokens: usize,
        heads: usize,
    ) -> Result<Self, ShapeError> {
        check_length("w", heads * (NOPE + VALUE) * LATENT, w.len())?;
        let product = Self { side, a, w, heads };
        check_length("a", tokens * heads * product.a_pitch(), a.len())?;
        Ok(product)
    }

    /// Columns of the result.
    pub fn n(&self) -> usize {
        match self.side {
            Side::Query => LATENT,
            Side::Output => VALUE,
        }
    }

    /// Products of one element.
    pub fn k(&self) -> usize {
        match self.side {
            Side::Query => NOPE,
            Side::Output => LATENT,
        }
    }

    fn a_pitch(&self) -> usize {
        match self.side {
            Side::Query => NOPE + ROPE,
            Side::Output => LATENT,
        }
    }

    /// The bits that the tensor core's model gives, rounded to BF16: `[tokens, heads, n]`.
    pub fn bit_model(&self) -> Vec<bf16> {
        self.elements(|a, b| {
            let (a, b) = (a.as_chunks::<STEP>().0, b.as_chunks::<STEP>().0);
            bf16::from_f32(a.iter().zip(b).fold(0.0, |sum, (a, b)| fused_dot_bf16(a, b, sum)))
        })
    }

    /// In f64, with the error that any kernel with an FP32 accumulator may make on operands that are not subnormal:
    /// `[tokens, heads, n]`.
    ///
    /// S being the sum of all |a b|, a fused sum of 16 cuts 17 terms by less than 2^-25 S each and its result by 2^-23 S, an
    /// FP32 fma rounds by 2^-24 S: over K products, both stay below K 2^-23 S. BF16 rounds once more.
    pub fn bound(&self) -> Vec<(f64, f64)> {
        let k = self.k() as f64;
        self.elements(|a, b| {
            let products = || a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64());
            let (sum, magnitude) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let fp32 = k * pow2(-23) * magnitude;
            (sum, fp32 + pow2(-8) * (sum.abs() + fp32) + pow2(-134))
        })
    }

    fn elements<T: Send>(&self, dot: impl Fn(&[bf16], &[bf16]) -> T + Sync) -> Vec<T> {
        let (n, k) = (self.n(), self.k());
        let columns: Vec<Vec<bf16>> =
            (0..self.heads * n).into_par_iter().map(|i| self.column(i / n, i % n)).collect();
        let row = |(row, a): (usize, &'a [bf16])| {
            let columns = &columns[row % self.heads * n..][..n];
            columns.iter().map(|b| dot(&a[..k], b)).collect::<Vec<T>>()
        };
        self.a.par_chunks(self.a_pitch()).enumerate().flat_map_iter(row).collect()
    }

    /// What a head's rows are multiplied with for column `n`.
    fn column(&self, head: usize, n: usize) -> Vec<bf16> {
        let w = &self.w[head * (NOPE + VALUE) * LATENT..][..(NOPE + VALUE) * LATENT];
        match self.side {
            Side::Query => (0..NOPE).map(|k| w[k * LATENT + n]).collect(),
            Side::Output => w[(NOPE + n) * LATENT..][..LATENT].to_vec(),
        }
    }
}
