use half::bf16;
use rayon::prelude::*;

use crate::tensor_core::fused_dot_bf16;
use crate::{ShapeError, check_length, pow2};

/// Columns of the latent space.
const LATENT: usize = 512;
/// Products of one fused sum of the tensor core.
const STEP: usize = 16;

/// Which of MLA's absorbed projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `q_latent[t, h, n] = sum over k of q[t, h, k] * w[h, k, n]`.
    Query,
    /// `out[t, h, n] = sum over k of latent[t, h, k] * w[h, nope + n, k]`.
    Output,
}

/// Columns of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadColumns {
    /// Of its query, not rotated.
    pub nope: usize,
    /// Of its query, rotated.
    pub rope: usize,
    /// Of its value.
    pub value: usize,
}

impl HeadColumns {
    /// Of DeepSeek-V3.
    pub const DEEPSEEK_V3: Self = Self { nope: 128, rope: 64, value: 128 };
    /// Of GLM-5.
    pub const GLM_5: Self = Self { nope: 192, rope: 64, value: 256 };

    /// Of its query, and of its key.
    pub const fn key(&self) -> usize {
        self.nope + self.rope
    }

    /// Rows of W.
    pub const fn rows(&self) -> usize {
        self.nope + self.value
    }
}

/// A projection of all heads, checked for its shape.
#[derive(Clone, Copy, Debug)]
pub struct HeadProduct<'a> {
    side: Side,
    columns: HeadColumns,
    a: &'a [bf16],
    w: &'a [bf16],
    heads: usize,
}

impl<'a> HeadProduct<'a> {
    /// a: `[tokens, heads, nope + rope]` of which the first count, or `[tokens, heads, 512]`; w: `[heads, nope + value, 512]`.
    pub fn new(
        (side, columns): (Side, HeadColumns),
        a: &'a [bf16],
        w: &'a [bf16],
        tokens: usize,
        heads: usize,
    ) -> Result<Self, ShapeError> {
        check_length("w", heads * columns.rows() * LATENT, w.len())?;
        let product = Self { side, columns, a, w, heads };
        check_length("a", tokens * heads * product.a_pitch(), a.len())?;
        Ok(product)
    }

    /// Columns of the result.
    pub fn n(&self) -> usize {
        match self.side {
            Side::Query => LATENT,
            Side::Output => self.columns.value,
        }
    }

    /// Products of one element.
    pub fn k(&self) -> usize {
        match self.side {
            Side::Query => self.columns.nope,
            Side::Output => LATENT,
        }
    }

    fn a_pitch(&self) -> usize {
        match self.side {
            Side::Query => self.columns.nope + self.columns.rope,
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
        let HeadColumns { nope, .. } = self.columns;
        let rows = self.columns.rows();
        let w = &self.w[head * rows * LATENT..][..rows * LATENT];
        match self.side {
            Side::Query => (0..nope).map(|k| w[k * LATENT + n]).collect(),
            Side::Output => w[(nope + n) * LATENT..][..LATENT].to_vec(),
        }
    }
}
