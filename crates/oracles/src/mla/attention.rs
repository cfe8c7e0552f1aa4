//! Attention of the rows of one sequence in f64, with the error that a correct kernel may make.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use crate::gemm::Output;
use crate::verdict::{Verdict, within};
use crate::{ShapeError, check_length, pow2};

/// Elements of one k step of BF16.
pub(super) const STEP: usize = 16;

/// What the kernels of an operation have in common: widths, and an order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Elements of a key and of a query.
    pub key: usize,
    /// Elements of a value.
    pub value: usize,
    /// The element that a score begins with; it goes on to the last one, and ends before this.
    pub first: usize,
    /// Keys between two updates of the running maximum.
    pub block: usize,
}

/// Rows of one sequence, and its keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention<'a> {
    pub form: Form,
    /// `[rows, key]`.
    pub q: &'a [bf16],
    /// `[n, key]`.
    pub keys: &'a [bf16],
    /// The value of key j is from element `j * value_pitch` on.
    pub values: &'a [bf16],
    pub value_pitch: usize,
    /// What a dot product is multiplied by before the exponential.
    pub scale: f32,
    /// Keys of a split; 0: one split.
    pub split_keys: usize,
}

/// Attention in f64, and how far from it a correct kernel may be.
///
/// A query without a key gives +0 and a logarithm of -inf, and no other bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MlaBounded {
    /// Columns of `out`.
    pub columns: usize,
    /// `[rows, columns]`.
    pub out: Vec<f64>,
    /// For each element of `out`.
    pub out_bound: Vec<f64>,
    /// `[rows]`: natural logarithm of the sum of the exponentials.
    pub lse: Vec<f64>,
    /// For each element of `lse`.
    pub lse_bound: Vec<f64>,
}

impl MlaBounded {
    /// Judges a kernel's output `[rows, columns]`.
    pub fn check_out(&self, got: &[bf16]) -> Result<Verdict, ShapeError> {
        check_length("out", self.out.len(), got.len())?;
        Ok(within(Output::Bf16, &self.out, &self.out_bound, self.columns, &|i| got[i].to_f32()))
    }

    /// Judges a kernel's logarithms `[rows]`; a row of the verdict is a query.
    pub fn check_lse(&self, got: &[f32]) -> Result<Verdict, ShapeError> {
        check_length("lse", self.lse.len(), got.len())?;
        Ok(within(Output::F32, &self.lse, &self.lse_bound, 1, &|i| got[i]))
    }
}

/// One query on its way.
struct Row {
    q: Vec<f64>,
    /// Keys that it sees.
    visible: usize,
    errors: Errors,
    /// Scaled logits.
    logits: Vec<f64>,
    /// Of each logit, how far a kernel's may be.
    logit_errors: Vec<f64>,
}

impl Attention<'_> {
    /// In f64: `out = sum p_j v_j`, `p = softmax(scale * q k_j)`, of some rows, with the bound of every kernel in this order.
    pub(super) fn bounded(&self, rows: &[usize], visible: impl Fn(usize) -> usize) -> MlaBounded {
        let keys: Vec<f32> = self.keys.iter().map(|x| x.to_f32()).collect();
        let values: Vec<f32> = self.values.iter().map(|x| x.to_f32()).collect();
        let key = self.form.key;
        let rows: Vec<(usize, &[bf16])> =
            rows.iter().map(|&row| (visible(row), &self.q[row * key..][..key])).collect();
        // A key is used for some rows while it is in the nearest cache.
        let parts: Vec<MlaBounded> =
            rows.par_chunks(4).map(|rows| self.attend(&keys, &values, rows)).collect();
        let mut all = MlaBounded { columns: self.form.value, ..MlaBounded::default() };
        for part in parts {
            all.out.extend(part.out);
            all.out_bound.extend(part.out_bound);
            all.lse.extend(part.lse);
            all.lse_bound.extend(part.lse_bound);
        }
        all
    }

    /// Rows, each with the number of keys that it sees.
    fn attend(&self, keys: &[f32], values: &[f32], rows: &[(usize, &[bf16])]) -> MlaBounded {
        let (scale, form) = (f64::from(self.scale), self.form);
        let mut rows: Vec<Row> = rows
            .iter()
            .map(|&(visible, q)| Row {
                q: q.iter().map(|x| x.to_f64()).collect(),
                visible,
                errors: Errors::new(visible, self.split_keys, form.block),
                logits: Vec::with_capacity(visible),
                logit_errors: Vec::with_capacity(visible),
            })
            .collect();
        for (j, key) in keys.chunks_exact(form.key).enumerate() {
            for row in rows.iter_mut().filter(|row| j < row.visible) {
                let (dot, error) = form.first_product(&row.q, key);
                row.logits.push(scale * dot);
                row.logit_errors.push(scale.abs() * error);
            }
        }
        let mut result = MlaBounded::default();
        let weights: Vec<Weights> =
            rows.iter().map(|row| row.errors.weights(&row.logits, &row.logit_errors)).collect();
        let mut sums = vec![[vec![0.0; form.value], vec![0.0; form.value]]; rows.len()];
        for (j, value) in values.chunks(self.value_pitch).enumerate() {
            for (weights, sums) in weights.iter().zip(&mut sums) {
                if let (Some(&p), Some(&error)) = (weights.p.get(j), weights.error.get(j)) {
                    let [out, deviation] = sums;
                    for ((out, deviation), &v) in out.iter_mut().zip(deviation).zip(value) {
                        *out += p * f64::from(v);
                        *deviation += error * f64::from(v.abs());
                    }
                }
            }
        }
        for ((row, weights), [out, deviation]) in rows.iter().zip(&weights).zip(&sums) {
            let bound = |(out, deviation)| row.errors.out_bound(weights, out, deviation);
            result.out.extend(out);
            result.lse.push(weights.lse);
            if row.visible == 0 {
                result.out_bound.resize(result.out.len(), 0.0);
                result.lse_bound.push(0.0);
            } else {
                result.out_bound.extend(out.iter().copied().zip(deviation.iter().copied()).map(bound));
                result.lse_bound.push(row.errors.lse_bound(weights));
            }
        }
        result
    }
}

impl Form {
    /// K steps of a score, in order, by their first columns.
    pub(super) fn steps(self) -> impl Iterator<Item = usize> {
        (self.first..self.key).chain(0..self.first).step_by(STEP)
    }

    /// `q k`, and how far from it the accumulator may be after its steps.
    ///
    /// A step cuts 16 products and the accumulator below 2^-25 of the largest of them, and their sum to 24 bits. Products of
    /// 0 leave the accumulator as it is.
    fn first_product(self, q: &[f64], key: &[f32]) -> (f64, f64) {
        let (mut sum, mut error) = (0.0_f64, 0.0_f64);
        let steps = |range: Range<usize>| {
            q[range.clone()].as_chunks::<STEP>().0.iter().zip(key[range].as_chunks::<STEP>().0)
        };
        for (q, key) in steps(self.first..self.key).chain(steps(0..self.first)) {
            // In lanes that the compiler can keep in vectors.
            let (mut dot, mut largest) = ([0.0; 4], [0.0; 4]);
            for i in 0..STEP {
                let product = q[i] * f64::from(key[i]);
                dot[i % 4] += product;
                largest[i % 4] = if product.abs() > largest[i % 4] { product.abs() } else { largest[i % 4] };
            }
            let largest = largest.iter().copied().fold(0.0, f64::max);
            if largest > 0.0 {
                let cut = 17.0 * pow2(-25) * largest.max(sum.abs() + error);
                sum += dot.iter().sum::<f64>();
                error += cut + pow2(-23) * (sum.abs() + error + cut);
            }
        }
        (sum, error)
    }
}

/// Relative error of one rounding to FP32.
const ROUND: f64 = pow2(-24);
/// Relative error of a rounding to BF16.
const ROUND_BF16: f64 = pow2(-8);
/// Relative error of `ex2.approx`: 2 units of the last of 24 bits.
const EX2: f64 = pow2(-22);
/// One k16 step as in [`Form::first_product`], relative to the sum of the absolute values so far.
const K_STEP: f64 = 17.0 * pow2(-25) + pow2(-23);

/// What a kernel may do wrong in a row. All are relative, and exponents: a product of (1 + e) lies between the exponentials
/// of the sum of the e and of its negative, but for 2^-22 of that sum; an EX2 too many is more than that.
struct Errors {
    /// Of every p after its own exponential: the exponentials that it is multiplied by when the maximum grows, once per
    /// block of the split and once per split at most.
    rescale: f64,
    /// Of the sum of the p in a split: one of four threads adds every fourth of a row's p; two additions join the
    /// threads, and every block may rescale the sum.
    sum: f64,
    /// Of the second product in a split: its k steps, and the rescaling of its accumulator.
    product: f64,
    /// Of the merge of either sum: an addition of every split's partial result, which its factor was multiplied into.
    merge: f64,
}

/// The probabilities of a row and their errors.
struct Weights {
    /// Normalised p.
    p: Vec<f64>,
    /// How far the BF16 p of a kernel may be from it, with the error of the second product.
    error: Vec<f64>,
    lse: f64,
    /// The largest logit.
    max: f64,
    /// Between what the kernel's sum of the p, and the sum, may be apart.
    sum_ratio: (f64, f64),
}

impl Errors {
    fn new(keys: usize, split_keys: usize, block: usize) -> Self {
        let splits = if split_keys == 0 { 1.0 } else { keys.div_ceil(split_keys) as f64 };
        let split_keys = if split_keys == 0 { keys } else { split_keys.min(keys) };
        let blocks = split_keys.div_ceil(block) as f64;
        Self {
            rescale: (blocks + splits) * EX2,
            sum: (blocks * (block / 4) as f64 + 2.0 + blocks) * ROUND,
            product: blocks * ((block / STEP) as f64 * K_STEP + ROUND),
            merge: 2.0 * splits * ROUND,
        }
    }

    fn weights(&self, logits: &[f64], logit_errors: &[f64]) -> Weights {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if logits.is_empty() {
            return Weights { p: vec![], error: vec![], lse: max, max, sum_ratio: (1.0, 1.0) };
        }
        let exponentials: Vec<f64> = logits.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        let p: Vec<f64> = exponentials.iter().map(|e| e / sum).collect();
        let exponents = logits.iter().zip(logit_errors).map(|(&logit, &error)| {
            // An error of the exponent is an error of the natural logit, whatever the base. The logit is multiplied by
            // scale * log2(e), which was rounded twice; the differences to the maxima are each rounded, and add up to
            // the distance from the last maximum.
            let argument = error + 3.0 * ROUND * logit.abs() + ROUND * (max - logit);
            argument + EX2 + self.rescale
        });
        let mut sum_ratio = (0.0, 0.0);
        let mut error = Vec::with_capacity(p.len());
        for (exponent, p) in exponents.zip(&p) {
            let of_sum = exponent + self.sum + self.merge;
            sum_ratio.0 += p * (-of_sum).exp();
            sum_ratio.1 += p * of_sum.exp();
            // A p below the range of FP32, whose largest is 1, may be lost.
            let lost = pow2(-125) / sum;
            error.push(p * ((exponent + self.product).exp() * (1.0 + ROUND_BF16) - 1.0) + lost);
        }
        Weights { p, error, lse: max + sum.ln(), max, sum_ratio }
    }

    /// `deviation` is `sum error_j |v_j|`, how far the second product may be off.
    fn out_bound(&self, weights: &Weights, out: f64, deviation: f64) -> f64 {
        // The quotient, or the product with an approximate reciprocal, and the merge of the numerator.
        let division = self.merge + pow2(-22);
        let (low, high) = weights.sum_ratio;
        let of_sum = (1.0 - low).max(high - 1.0);
        // n'(1 + d) / (l r) - n / l = ((n' - n)(1 + d) + n (d + 1 - r)) / (l r)
        let quotient = (deviation * (1.0 + division) + out.abs() * (division + of_sum)) / low;
        quotient + ROUND_BF16 * (out.abs() + quotient) + pow2(-133)
    }

    fn lse_bound(&self, weights: &Weights) -> f64 {
        let (low, high) = weights.sum_ratio;
        let logarithm = weights.lse - weights.max;
        // `lg2.approx`: 2^-22 absolute near 1, relative elsewhere. Then the maximum and the logarithm come from base 2
        // to base e, and are added.
        let approximate = pow2(-22) * logarithm.max(std::f64::consts::LN_2);
        (-low.ln()).max(high.ln()) + approximate + 3.0 * ROUND * (weights.max.abs() + logarithm)
    }
}
