//! The inputs of a step, and what the reference makes of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{EmptyLse, KvPaging, MlaDecodeSpec};
use deepseek_kernels::{DataFaults, bf16};
use oracles::mla::{
    Approximations, AttentionClass, FlashMlaBar, MlaBounded, MlaSequence, dequantize_kv_fp8, gather_pages,
    mla_decode, mla_decode_bits,
};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::{DRAWN, MlaDecodeCase, MlaDecodeRun};
use crate::case::{Prepared, Problem, fault_if};
use crate::data::{repeated, rows_of};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Output};
use crate::mla::cache::CacheRows;
use crate::mla::{KEY, LATENT};

/// What FlashMLA's tests fill the end of a page table with.
pub const STALE_PAGE: i32 = 2_147_480_000;

/// Pairs of a query and a key that are judged at most; of more, the first and the last sequence are, and three heads.
const JUDGED: usize = 1 << 21;
/// Pairs whose bits are: of more, rows drawn from all.
const JUDGED_BITS: usize = 1 << 14;

/// A step with its inputs.
#[derive(Debug, Clone)]
pub struct MlaDecodeProblem {
    pub case: MlaDecodeCase,
    pub spec: MlaDecodeSpec,
    /// On the device.
    pub lengths: Vec<i32>,
    /// `[batch, pages_per_sequence]`; stale past the end of a sequence.
    pub table: Vec<i32>,
    /// `[batch * q_tokens * heads, 576]`.
    pub q: Vec<bf16>,
    /// As many as the pages hold, or fewer that repeat. Whatever is not a key of a sequence is NaN.
    pub cache: CacheRows,
    /// Every query and key is finite. Of others the reference says nothing, and only what is written is judged.
    pub finite: bool,
}

impl MlaDecodeCase {
    /// With its inputs.
    pub fn problem(self) -> Result<MlaDecodeProblem> {
        let spec = self.spec();
        let (pages, page_size, columns) = match spec.paging {
            KvPaging::Paged { pages, page_size, pages_per_sequence } => {
                (pages, page_size, pages_per_sequence)
            }
            KvPaging::Contiguous { capacity } => (spec.batch, capacity, 1),
        };
        let mut order: Vec<i32> = (0..pages as i32).collect();
        if self.page_size.is_some() {
            order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(self.seed));
        }
        let mut table = vec![STALE_PAGE; spec.batch * columns];
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let used = sequence * columns..sequence * columns + length.div_ceil(page_size);
            table[used.clone()].copy_from_slice(&order[used]);
        }
        let (q, keys, slots) = if self.repeated {
            self.repeated_inputs()
        } else {
            let row = |sequence: usize, key: usize| {
                table[sequence * columns + key / page_size] as usize * page_size + key % page_size
            };
            self.inputs(row)
        };
        let rows = if self.repeated { DRAWN } else { pages * page_size };
        let cache = CacheRows::of_keys(self.format, rows, &keys, &slots)?;
        let lengths = self.lengths.iter().map(|&length| length as i32).collect();
        Ok(MlaDecodeProblem { case: self, spec, lengths, table, q, cache, finite: true })
    }

    /// Queries and keys of every sequence, and the row of each key.
    fn inputs(&self, row: impl Fn(usize, usize) -> usize) -> (Vec<bf16>, Vec<bf16>, Vec<i32>) {
        let (mut q, mut keys, mut slots) = (vec![], vec![], vec![]);
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let seen = if self.causal { length.saturating_sub(self.q_tokens - 1) } else { length };
            let inputs = self.class.generate(self.rows(), length, seen, self.seed + sequence as u64);
            q.extend(inputs.q);
            keys.extend(inputs.keys);
            slots.extend((0..length).map(|key| row(sequence, key) as i32));
        }
        (q, keys, slots)
    }

    fn repeated_inputs(&self) -> (Vec<bf16>, Vec<bf16>, Vec<i32>) {
        let queries = self.lengths.len() * self.rows();
        let inputs = self.class.generate(queries.min(DRAWN), DRAWN, DRAWN, self.seed);
        (repeated(&inputs.q, KEY, queries), inputs.keys, (0..DRAWN as i32).collect())
    }
}

impl MlaDecodeProblem {
    /// The batch of one sequence, with the same cache.
    #[must_use]
    pub fn only(&self, sequence: usize) -> Self {
        let columns = self.table.len() / self.spec.batch;
        let mut spec = self.spec;
        spec.batch = 1;
        let rows = self.case.rows() * KEY;
        let case = MlaDecodeCase { lengths: vec![self.case.lengths[sequence]], ..self.case.clone() };
        Self {
            case: MlaDecodeCase { alone: false, ..case },
            spec,
            lengths: vec![self.lengths[sequence]],
            table: self.table[sequence * columns..][..columns].to_vec(),
            q: self.q[sequence * rows..][..rows].to_vec(),
            cache: self.cache.clone(),
            finite: self.finite,
        }
    }

    /// What of a result is a sequence's: out, then lse.
    pub fn part<'o>(&self, outputs: &'o [Output], sequence: usize) -> Vec<&'o [u8]> {
        let of = |output: &'o Output| {
            let bytes = output.bytes.len() / self.spec.batch;
            &output.bytes[sequence * bytes..][..bytes]
        };
        outputs.iter().map(of).collect()
    }

    /// Keys of a sequence, cut to those that its pages hold; none if it has, with all before it, more than all may have.
    fn read(&self, sequence: usize) -> usize {
        let cut = |length: &i32| ((*length).max(0) as usize).min(self.spec.capacity());
        let together: usize = self.lengths[..=sequence].iter().map(cut).sum();
        if self.spec.total_keys.is_none_or(|most| together <= most) {
            cut(&self.lengths[sequence])
        } else {
            0
        }
    }

    /// Keys of a page, and the pages of a sequence.
    fn pages(&self, sequence: usize) -> (usize, Vec<i32>) {
        match self.spec.paging {
            KvPaging::Paged { page_size, pages_per_sequence, .. } => {
                (page_size, self.table[sequence * pages_per_sequence..][..pages_per_sequence].to_vec())
            }
            KvPaging::Contiguous { capacity } => (capacity, vec![sequence as i32]),
        }
    }

    fn gathered<T: Copy + Default>(&self, rows: &[T], sequence: usize) -> Vec<T> {
        let (width, (page_size, pages)) = (self.spec.format.columns(), self.pages(sequence));
        if !self.case.repeated {
            return gather_pages(rows, width, page_size, &pages, self.read(sequence) as i32);
        }
        let row = |key: usize| pages[key / page_size] as usize * page_size + key % page_size;
        rows_of(rows, width, &(0..self.read(sequence)).map(row).collect::<Vec<_>>())
    }

    /// The keys of a sequence, as the kernel is to understand them.
    fn keys(&self, sequence: usize) -> Result<Vec<bf16>> {
        Ok(match &self.cache {
            CacheRows::Bf16(rows) => self.gathered(rows, sequence),
            CacheRows::Fp8(rows) => dequantize_kv_fp8(&self.gathered(rows, sequence))?,
        })
    }

    /// Attention of some heads of a sequence.
    ///
    /// # Errors
    /// Of the shapes.
    pub fn reference(&self, sequence: usize, heads: &[usize]) -> Result<MlaBounded> {
        let (q, keys) = (rows_of(&self.q, KEY, &self.rows(sequence, heads)), self.keys(sequence)?);
        Ok(mla_decode(&self.sequence(&q, &keys, heads.len()))?)
    }

    /// As the oracles take it.
    fn sequence<'a>(&self, q: &'a [bf16], keys: &'a [bf16], heads: usize) -> MlaSequence<'a> {
        let MlaDecodeSpec { q_tokens, softmax_scale: scale, causal, split_keys, .. } = self.spec;
        MlaSequence { q, keys, q_tokens, heads, scale, causal, split_keys }
    }

    /// Rows of the step.
    fn rows(&self, sequence: usize, heads: &[usize]) -> Vec<usize> {
        let MlaDecodeSpec { q_tokens, heads: all, .. } = self.spec;
        let token = |token| heads.iter().map(move |head| (sequence * q_tokens + token) * all + head);
        (0..q_tokens).flat_map(token).collect()
    }

    /// What a run has to report: lengths that no pages hold, more of them than said, pages that there are not among those that
    /// are read, and rows of nothing but -Inf.
    pub(super) fn faults(&self) -> DataFaults {
        let fits = |sequence: usize| self.read(sequence) as i64 == i64::from(self.lengths[sequence]);
        let strange_page = match self.spec.paging {
            KvPaging::Contiguous { .. } => false,
            KvPaging::Paged { pages, page_size, .. } => (0..self.spec.batch).any(|sequence| {
                let read = &self.pages(sequence).1[..self.read(sequence).div_ceil(page_size)];
                !read.iter().all(|&page| (0..pages as i64).contains(&i64::from(page)))
            }),
        };
        fault_if(!(0..self.spec.batch).all(fits), DataFaults::SEQUENCE_LENGTH)
            | fault_if(strange_page, DataFaults::PAGE_ID)
            | fault_if(self.has_lost_row(), DataFaults::NONFINITE_SCORE)
    }

    /// Whether a row sees keys of a split, and every one with a score of -Inf.
    fn has_lost_row(&self) -> bool {
        !self.finite && (0..self.spec.batch).any(|sequence| self.loses_row(sequence))
    }

    fn loses_row(&self, sequence: usize) -> bool {
        let Ok(keys) = self.keys(sequence) else { return false };
        let MlaDecodeSpec { q_tokens, heads, causal, split_keys, .. } = self.spec;
        let lost = |q: &[bf16], keys: &[bf16]| {
            let score = |k: &[bf16]| q.iter().zip(k).map(|(q, k)| q.to_f64() * k.to_f64()).sum::<f64>();
            keys.chunks(KEY * split_keys)
                .any(|split| split.chunks(KEY).all(|k| score(k) == f64::NEG_INFINITY))
        };
        (0..q_tokens * heads).any(|row| {
            let hidden = if causal { q_tokens - 1 - row / heads } else { 0 };
            let visible = (keys.len() / KEY).saturating_sub(hidden);
            lost(&self.q[(sequence * q_tokens * heads + row) * KEY..][..KEY], &keys[..visible * KEY])
        })
    }

    /// Sequences and heads that are judged: all, or a few of a large or briefly judged step.
    fn judged(&self, scrutiny: Scrutiny) -> (Vec<usize>, Vec<usize>) {
        let MlaDecodeSpec { batch, heads, .. } = self.spec;
        let keys: usize = (0..batch).map(|sequence| self.read(sequence)).sum();
        let pairs = self.case.rows() * keys;
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
    pub(super) fn judge(&self, out: &[bf16], lse: &[f32], scrutiny: Scrutiny) -> Result<Vec<Check>> {
        if !self.finite {
            return Ok(vec![]);
        }
        let (sequences, heads) = self.judged(scrutiny);
        let all = sequences.len() * heads.len() == self.spec.batch * self.spec.heads;
        let mut joined: Vec<Check> = vec![];
        for index in sequences {
            let rows = self.rows(index, &heads);
            let sequence = Judged {
                problem: self,
                index,
                heads: heads.len(),
                reference: self.reference(index, &heads)?,
                out: rows_of(out, LATENT, &rows),
                lse: rows.iter().map(|&row| self.logarithm(lse[row])).collect(),
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
        let (batch, rows) = (self.spec.batch, self.case.rows());
        let mut all: Vec<usize> = (0..batch * rows).collect();
        all.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(self.case.seed));
        let mut pairs = 0;
        let affordable = |row: &usize| {
            // One at least. A row without keys takes time too.
            let before = pairs;
            pairs += self.read(row / rows) + 64;
            before == 0 || pairs <= JUDGED_BITS
        };
        let few: BTreeSet<usize> = all.into_iter().take_while(affordable).collect();
        let of =
            |sequence| (sequence, few.range(sequence * rows..(sequence + 1) * rows).map(|row| row % rows));
        let some = (0..batch).map(of).map(|(sequence, rows)| (sequence, rows.collect::<Vec<_>>()));
        some.filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// The bits of a machine with these approximations, whatever the operands.
    pub(super) fn judge_bits(
        &self,
        out: &[bf16],
        lse: &[f32],
        machine: Approximations,
    ) -> Result<Vec<Check>> {
        let rows = self.case.rows();
        let judged = self.judged_bits();
        let count: usize = judged.iter().map(|(_, some)| some.len()).sum();
        let sample = (count < self.spec.batch * rows).then_some([count, LATENT]);
        let mut joined: Vec<Check> = vec![];
        for (sequence, some) in judged {
            let (q, keys) = (&self.q[sequence * rows * KEY..][..rows * KEY], self.keys(sequence)?);
            let bits = mla_decode_bits(&self.sequence(q, &keys, self.spec.heads), &some, machine)?;
            let places: Vec<usize> = some.iter().map(|row| sequence * rows + row).collect();
            let lse: Vec<f32> = places.iter().map(|&row| self.logarithm(lse[row])).collect();
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

    /// As the reference has it: -Inf for no key, which no other infinity stands for.
    fn logarithm(&self, lse: f32) -> f32 {
        match (self.spec.empty_lse, lse) {
            (EmptyLse::PositiveInfinity, f32::INFINITY) => f32::NEG_INFINITY,
            (EmptyLse::PositiveInfinity, f32::NEG_INFINITY) => f32::INFINITY,
            _ => lse,
        }
    }
}

/// What was computed of a sequence, and what should be.
struct Judged<'p> {
    problem: &'p MlaDecodeProblem,
    index: usize,
    heads: usize,
    reference: MlaBounded,
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
        let hidden = |row: usize| if spec.causal { spec.q_tokens - 1 - row / self.heads } else { 0 };
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
                oracle: "FlashMLA's bar",
                checked: got.len(),
                sample: None,
                worst: Some(verdict.worst_ratio.max(verdict.cosine_ratio)).filter(|worst| worst.is_finite()),
                failure: (!verdict.accepted()).then(|| verdict.to_string()),
            })
        };
        let judged = of(FlashMlaBar::OUT, &self.reference.out, &out)?;
        Ok(Some(judged.and(of(FlashMlaBar::LSE, &self.reference.lse, &self.lse)?)))
    }
}

impl Problem for MlaDecodeProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(MlaDecodeRun::new(self, arena)?))
    }
}
