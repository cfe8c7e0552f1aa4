//! What the oracles say of a step's results.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;
use deepseek_kernels::bf16;
use deepseek_kernels::mla::MlaDecodeSpec;
use oracles::mla::{Approximations, AttentionClass, FlashMlaBar, MlaBits, MlaBounded, mla_decode_bits};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::MlaDecodeProblem;
use crate::data::rows_of;
use crate::judge::{Check, Scrutiny};
use crate::mla::LATENT;
use crate::mla::lse::logarithm;

/// Pairs of a query and a key that are judged at most; of more, the first and the last sequence are, and three heads.
const JUDGED: usize = 1 << 21;
/// Pairs whose bits are: of more, rows drawn from all.
const JUDGED_BITS: usize = 1 << 14;

impl MlaDecodeProblem {
    /// Sequences and heads that are judged: all, or a few of a large or briefly judged step.
    fn judged(&self, scrutiny: Scrutiny) -> (Vec<usize>, Vec<usize>) {
        let MlaDecodeSpec { batch, heads, .. } = self.spec;
        let of_sequence = |sequence| self.queries(sequence).len() * heads * self.read(sequence);
        let pairs: usize = (0..batch).map(of_sequence).sum();
        if scrutiny == Scrutiny::Thorough && pairs <= JUDGED {
            return ((0..batch).collect(), (0..heads).collect());
        }
        let few = |count: usize, indices: &[usize]| -> Vec<usize> {
            let mut few: Vec<usize> = indices.iter().copied().filter(|&i| i < count).collect();
            few.dedup();
            few
        };
        (few(batch, &[0, batch.saturating_sub(1)]), few(heads, &[0, heads / 2, heads.saturating_sub(1)]))
    }

    /// The oracles of the class, each on all sequences that are judged.
    ///
    /// # Errors
    /// Of the shapes.
    pub fn judge(&self, out: &[bf16], lse: &[f32], scrutiny: Scrutiny) -> Result<Vec<Check>> {
        if !self.finite {
            return Ok(vec![]);
        }
        let (mut sequences, heads) = self.judged(scrutiny);
        let all = sequences.len() * heads.len() == self.spec.batch * self.spec.heads;
        sequences.retain(|&sequence| !self.queries(sequence).is_empty());
        let bounds = || sequences.iter().map(|&index| self.reference(index, &heads)).collect();
        let bounds = self.bounds.get(scrutiny, bounds)?;
        let mut joined: Vec<Check> = vec![];
        for (&index, reference) in sequences.iter().zip(bounds) {
            let rows = self.rows(index, &heads);
            let sequence = Judged {
                problem: self,
                index,
                heads: heads.len(),
                reference,
                out: rows_of(out, LATENT, &rows),
                lse: rows.iter().map(|&row| logarithm(self.spec.empty_lse, lse[row])).collect(),
            };
            let mut checks = sequence.judge()?;
            for check in &mut checks {
                check.failure = check.failure.take().map(|failure| format!("sequence {index}: {failure}"));
                if !all {
                    check.sample = Some([rows.len(), LATENT]);
                }
            }
            joined = Check::join(joined, checks);
        }
        Ok(joined)
    }

    /// Rows whose bits are judged, of each sequence: all, or some of a large step, drawn from all of them.
    fn judged_bits(&self) -> Vec<(usize, Vec<usize>)> {
        let (batch, heads) = (self.spec.batch, self.spec.heads);
        let of_sequence = |sequence| {
            let rows = 0..self.queries(sequence).len() * heads;
            rows.map(move |row| (sequence, row))
        };
        let mut all: Vec<(usize, usize)> = (0..batch).flat_map(of_sequence).collect();
        all.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(self.case.seed));
        let mut pairs = 0;
        let affordable = |(sequence, _): &(usize, usize)| {
            // One at least. A row without keys takes time too.
            let before = pairs;
            pairs += self.read(*sequence) + 64;
            before == 0 || pairs <= JUDGED_BITS
        };
        let few: BTreeSet<(usize, usize)> = all.into_iter().take_while(affordable).collect();
        let of = |sequence| {
            let rows = few.range((sequence, 0)..(sequence + 1, 0)).map(|&(_, row)| row);
            (sequence, rows.collect::<Vec<_>>())
        };
        let some = (0..batch).map(of);
        some.filter(|(_, rows)| !rows.is_empty()).collect()
    }

    fn sequence_bits(&self, sequence: usize, rows: Vec<usize>) -> Result<SequenceBits> {
        let Range { start, end } = self.queries(sequence);
        let row = self.spec.heads * self.case.key();
        let (q, keys) = (&self.q[start * row..end * row], self.keys(sequence)?);
        let step = self.sequence(sequence, q, &keys, self.spec.heads);
        let bits = mla_decode_bits(&step, &rows, Approximations::ROUNDED)?;
        Ok(SequenceBits { sequence, rows, bits })
    }

    /// The bits of the emulator, whatever the operands.
    ///
    /// # Errors
    /// Of the shapes.
    pub fn judge_bits(&self, out: &[bf16], lse: &[f32]) -> Result<Vec<Check>> {
        let of = |(sequence, rows)| self.sequence_bits(sequence, rows);
        let judged = || self.judged_bits().into_iter().map(of).collect();
        let judged = self.bits.get(Scrutiny::Thorough, judged)?;
        let count: usize = judged.iter().map(|SequenceBits { rows, .. }| rows.len()).sum();
        let rows: usize =
            (0..self.spec.batch).map(|sequence| self.queries(sequence).len() * self.spec.heads).sum();
        let sample = (count < rows).then_some([count, LATENT]);
        let mut joined: Vec<Check> = vec![];
        for SequenceBits { sequence, rows: some, bits } in judged {
            let start = self.queries(*sequence).start * self.spec.heads;
            let places: Vec<usize> = some.iter().map(|row| start + row).collect();
            let lse: Vec<f32> = places.iter().map(|&row| logarithm(self.spec.empty_lse, lse[row])).collect();
            let verdicts = [
                ("bit model", bits.check_out(&rows_of(out, LATENT, &places))?),
                ("bit model of lse", bits.check_lse(&lse)?),
            ];
            let checks = verdicts.map(|(oracle, verdict)| {
                let failure = verdict
                    .first_bad
                    .map(|first| format!("sequence {sequence}, row {} of q: {verdict}", some[first.row]));
                Check { failure, ..Check::of(oracle, &verdict, sample) }
            });
            joined = Check::join(joined, checks.into());
        }
        Ok(joined)
    }
}

/// Rows of a sequence, and their bits.
pub struct SequenceBits {
    sequence: usize,
    rows: Vec<usize>,
    bits: MlaBits,
}

/// What was computed of a sequence, and what should be.
struct Judged<'p> {
    problem: &'p MlaDecodeProblem,
    index: usize,
    heads: usize,
    reference: &'p MlaBounded,
    out: Vec<bf16>,
    lse: Vec<f32>,
}

impl Judged<'_> {
    fn judge(&self) -> Result<Vec<Check>> {
        let bounds = [
            Check::of("bound", &self.reference.check_out(&self.out)?, None),
            Check::of("bound of lse", &self.reference.check_lse(&self.lse)?, None),
        ];
        Ok(bounds.into_iter().chain(self.exact()).chain(self.flash_mla()?).collect())
    }

    /// Where only one result is right: the mean of equal weights, or the value of the only key that counts.
    fn exact(&self) -> Option<Check> {
        let MlaDecodeProblem { case, spec, .. } = self.problem;
        let oracle = match case.class {
            AttentionClass::Uniform => "exact mean",
            AttentionClass::OneKey => "dominant key",
            _ => return None,
        };
        let length = self.problem.read(self.index);
        let last = self.problem.queries(self.index).len() - 1;
        let hidden = |row: usize| if spec.causal { last - row / self.heads } else { 0 };
        let judged = |&i: &usize| case.class.is_exact(length.saturating_sub(hidden(i / LATENT)));
        let elements: Vec<usize> = (0..self.out.len()).filter(judged).collect();
        let expected = |i: usize| bf16::from_f64(self.reference.out[i]);
        let wrong = elements.iter().find(|&&i| self.out[i].to_bits() != expected(i).to_bits());
        let failure = wrong.map(|&i| {
            let (row, column) = (i / LATENT, i % LATENT);
            format!("out[{row}, {column}]: expected {}, got {}", expected(i), self.out[i])
        });
        Some(Check::equal(oracle, elements.len(), failure))
    }

    /// FlashMLA's own thresholds, on its own kind of data.
    fn flash_mla(&self) -> Result<Option<Check>> {
        if self.problem.case.class != AttentionClass::Normal {
            return Ok(None);
        }
        let out: Vec<f32> = self.out.iter().map(|x| x.to_f32()).collect();
        let of = |bar: FlashMlaBar, expected: &[f64], got: &[f32]| -> Result<Check> {
            let verdict = bar.check(expected, got)?;
            Ok(Check {
                worst: Some(verdict.worst_ratio.max(verdict.cosine_ratio)).filter(|worst| worst.is_finite()),
                ..Check::equal(
                    "FlashMLA's bar",
                    got.len(),
                    (!verdict.accepted()).then(|| verdict.to_string()),
                )
            })
        };
        let judged = of(FlashMlaBar::OUT, &self.reference.out, &out)?;
        Ok(Some(judged.and(of(FlashMlaBar::LSE, &self.reference.lse, &self.lse)?)))
    }
}
