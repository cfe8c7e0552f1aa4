//! Attention of the rows of one sequence to the bit, in the kernels' order.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::attention::{Attention, Form, STEP};
use crate::tensor_core::fused_dot_bf16;
use crate::verdict::{NOTHING, Verdict};
use crate::{ShapeError, check_length};

/// What a machine makes of the instructions that are specified to a bound only.
#[derive(Clone, Copy, Debug)]
pub struct Approximations {
    /// `ex2.approx.ftz`.
    pub ex2: fn(f32) -> f32,
    /// `lg2.approx.ftz`.
    pub lg2: fn(f32) -> f32,
}

impl Approximations {
    /// The exact value, rounded to nearest: what the emulator takes them for.
    pub const ROUNDED: Self = Self {
        ex2: |x| flush(f64::from(flush(x)).exp2() as f32),
        lg2: |x| flush(f64::from(flush(x)).log2() as f32),
    };
}

/// Subnormals become zeros.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0_f32.copysign(x) } else { x }
}

/// What a kernel in the pinned order gives of some queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MlaBits {
    /// Columns of `out`.
    pub columns: usize,
    /// `[rows, columns]`.
    pub out: Vec<bf16>,
    /// `[rows]`: natural logarithm of the sum of the exponentials, -inf without a key.
    pub lse: Vec<f32>,
}

impl MlaBits {
    /// Judges a kernel's outputs of the same rows.
    pub fn check_out(&self, got: &[bf16]) -> Result<Verdict, ShapeError> {
        check_length("out", self.out.len(), got.len())?;
        let mut verdict = NOTHING;
        for (i, (expected, got)) in self.out.iter().zip(got).enumerate() {
            verdict.add_bits((i / self.columns, i % self.columns), expected.to_f32(), got.to_f32());
        }
        Ok(verdict)
    }

    /// Judges a kernel's logarithms of the same rows; a row of the verdict is a query.
    pub fn check_lse(&self, got: &[f32]) -> Result<Verdict, ShapeError> {
        check_length("lse", self.lse.len(), got.len())?;
        let mut verdict = NOTHING;
        for (row, (&expected, &got)) in self.lse.iter().zip(got).enumerate() {
            verdict.add_bits((row, 0), expected, got);
        }
        Ok(verdict)
    }
}

/// What a row has to do with the keys of its sequence.
pub(super) struct Sight {
    /// The first ones, that it sees.
    pub visible: usize,
    /// The first ones, whose blocks are multiplied for it: where the others are not finite, it tells.
    pub read: usize,
}

impl Attention<'_> {
    /// Some rows, by the tensor-core model, with a machine's approximations.
    pub(super) fn bits(
        &self,
        rows: &[usize],
        sight: impl Fn(usize) -> Sight + Sync,
        machine: Approximations,
    ) -> MlaBits {
        let model = Model {
            attention: *self,
            values: self.transposed(),
            c: self.scale * std::f32::consts::LOG2_E,
            machine,
        };
        let of = |&row: &usize| {
            let q = &self.q[row * self.form.key..][..self.form.key];
            model.result(&model.combined(model.parts(q, sight(row))))
        };
        let (out, lse): (Vec<_>, Vec<_>) = rows.par_iter().map(of).unzip();
        MlaBits { columns: self.form.value, out: out.concat(), lse }
    }

    /// Values of 16 keys at a time, by column: `[n/16, value]`. Past the last key they are zeros, which no sum minds.
    fn transposed(&self) -> Vec<[bf16; STEP]> {
        let pitch = self.value_pitch;
        let steps = self.values.chunks(STEP * pitch).flat_map(|values| {
            (0..self.form.value).map(move |column| {
                std::array::from_fn(|key| values.get(key * pitch + column).copied().unwrap_or(bf16::ZERO))
            })
        });
        steps.collect()
    }
}

struct Model<'a> {
    attention: Attention<'a>,
    values: Vec<[bf16; STEP]>,
    /// What a score is multiplied by to become an exponent of 2.
    c: f32,
    machine: Approximations,
}

/// A split of a row, or all of it: m, l and O.
struct Part {
    max: f32,
    sum: f32,
    out: Vec<f32>,
}

impl Model<'_> {
    /// Every split of a row, in order.
    fn parts(&self, q: &[bf16], Sight { visible, read }: Sight) -> Vec<Part> {
        let split_keys = self.attention.split_keys;
        let split_keys = if split_keys == 0 { read } else { split_keys };
        let splits = (0..read).step_by(split_keys.max(1));
        splits.map(|first| self.attend(q, first..read.min(first + split_keys), visible)).collect()
    }

    fn attend(&self, q: &[bf16], keys: Range<usize>, visible: usize) -> Part {
        let Form { value, block, .. } = self.attention.form;
        let mut part = Part { max: f32::NEG_INFINITY, sum: 0.0, out: vec![0.0; value] };
        // Four threads share a row; each adds its own two columns of every eight.
        let mut sums = [0.0_f32; 4];
        for first in keys.clone().step_by(block) {
            let keys = first..keys.end.min(first + block);
            let score = |key| if key < visible { self.score(q, key) } else { f32::NEG_INFINITY };
            let scores: Vec<f32> = keys.map(score).collect();
            let max = part.max.max(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max) * self.c);
            let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let rescale = (self.machine.ex2)(part.max - base);
            part.max = max;
            sums.iter_mut().for_each(|sum| *sum *= rescale);
            let mut weights = vec![bf16::ZERO; block];
            for (key, score) in scores.iter().enumerate() {
                let p = (self.machine.ex2)(score.mul_add(self.c, -base));
                sums[key % 8 / 2] += p;
                weights[key] = bf16::from_f32(p);
            }
            part.out.iter_mut().for_each(|out| *out *= rescale);
            for (step, weights) in weights.as_chunks::<STEP>().0.iter().enumerate() {
                // None past the last key.
                let values = self.values.iter().skip((first / STEP + step) * value);
                for (out, values) in part.out.iter_mut().zip(values) {
                    *out = fused_dot_bf16(weights, values, *out);
                }
            }
        }
        part.sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        part
    }

    fn score(&self, q: &[bf16], key: usize) -> f32 {
        let Attention { form, keys, .. } = self.attention;
        let (key, _) = keys[key * form.key..][..form.key].as_chunks::<STEP>();
        let (q, _) = q.as_chunks::<STEP>();
        form.steps()
            .map(|column| column / STEP)
            .fold(0.0, |sum, step| fused_dot_bf16(&q[step], &key[step], sum))
    }

    /// Several parts in ascending order, those without keys left out; one as it is.
    fn combined(&self, mut parts: Vec<Part>) -> Part {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let max = parts.iter().map(|part| part.max).fold(f32::NEG_INFINITY, f32::max);
        let mut all = Part { max, sum: 0.0, out: vec![0.0; self.attention.form.value] };
        for part in parts.iter().filter(|part| part.sum != 0.0) {
            let weight = (self.machine.ex2)(part.max - max);
            all.sum = weight.mul_add(part.sum, all.sum);
            for (all, out) in all.out.iter_mut().zip(&part.out) {
                *all = weight.mul_add(*out, *all);
            }
        }
        all
    }

    fn result(&self, Part { max, sum, out }: &Part) -> (Vec<bf16>, f32) {
        let (inverse, lse) = if *sum == 0.0 {
            (0.0, f32::NEG_INFINITY)
        } else {
            (1.0 / sum, (max + (self.machine.lg2)(*sum)) * std::f32::consts::LN_2)
        };
        (out.iter().map(|out| bf16::from_f32(out * inverse)).collect(), lse)
    }
}
