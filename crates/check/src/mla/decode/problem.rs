//! The inputs of a step, and what the reference makes of them.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{KvPaging, MlaDecodeSpec};
use deepseek_kernels::{DataFaults, bf16};
use oracles::mla::{
    AttentionClass, MlaBounded, MlaSequence, dequantize_kv_fp8, dequantize_kv_fp8_per_tensor, gather_pages,
    mla_decode,
};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::judge::SequenceBits;
use super::{DRAWN, MlaDecodeCase, MlaDecodeRun, SPARE};
use crate::case::{Expected, Prepared, Problem, fault_if};
use crate::data::{repeated, rows_of};
use crate::memory::{Arena, Output, Scalar};
use crate::mla::cache::CacheRows;
use crate::mla::{KEY, ROPE, packed};

/// What FlashMLA's tests fill the end of a page table with.
pub const STALE_PAGE: i32 = 2_147_480_000;

/// A step with its inputs.
#[derive(Debug, Clone)]
pub struct MlaDecodeProblem {
    pub case: MlaDecodeCase,
    pub spec: MlaDecodeSpec,
    /// On the device.
    pub lengths: Vec<i32>,
    /// `[batch + 1]`, if query tokens are packed.
    pub q_offsets: Option<Vec<i32>>,
    /// `[batch, pages_per_sequence]`; stale past the end of a sequence.
    pub table: Vec<i32>,
    /// `[tokens * heads, 512 + rope]`. What is nobody's is NaN.
    pub q: Vec<bf16>,
    /// As many as the pages hold, or fewer that repeat. Whatever is not a key of a sequence is NaN.
    pub cache: CacheRows,
    /// Every query and key is finite. Of others the reference says nothing, and only what is written is judged.
    pub finite: bool,
    /// Of each sequence that is judged.
    pub bounds: Expected<Vec<MlaBounded>>,
    /// Of rows of some sequences.
    pub bits: Expected<Vec<SequenceBits>>,
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
        let cache = CacheRows::of_keys(self.format, self.rope, rows, &keys, &slots)?;
        let lengths = self.lengths.iter().map(|&length| length as i32).collect();
        let q_offsets = self.packed.as_ref().map(|tokens| packed::offsets(SPARE.0, tokens));
        Ok(MlaDecodeProblem {
            case: self,
            spec,
            lengths,
            q_offsets,
            table,
            q,
            cache,
            finite: true,
            bounds: Expected::default(),
            bits: Expected::default(),
        })
    }

    /// Queries and keys of every sequence, and the row of each key.
    fn inputs(&self, row: impl Fn(usize, usize) -> usize) -> (Vec<bf16>, Vec<bf16>, Vec<i32>) {
        let (mut keys, mut slots) = (vec![], vec![]);
        let nobodys = |tokens: usize| {
            let tokens = if self.packed.is_some() { tokens } else { 0 };
            vec![bf16::POISON; tokens * self.heads * self.key()]
        };
        let mut q = nobodys(SPARE.0);
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let tokens = self.tokens(sequence);
            let seen = if self.causal { (length + 1).saturating_sub(tokens) } else { length };
            let inputs = self.class.generate(tokens * self.heads, length, seen, self.seed + sequence as u64);
            q.extend(self.narrowed(inputs.q));
            keys.extend(self.narrowed(inputs.keys));
            slots.extend((0..length).map(|key| row(sequence, key) as i32));
        }
        q.extend(nobodys(SPARE.1));
        (q, keys, slots)
    }

    fn repeated_inputs(&self) -> (Vec<bf16>, Vec<bf16>, Vec<i32>) {
        let queries = self.all_tokens() * self.heads;
        let inputs = self.class.generate(queries.min(DRAWN), DRAWN, DRAWN, self.seed);
        let (q, keys) = (self.narrowed(inputs.q), self.narrowed(inputs.keys));
        (repeated(&q, self.key(), queries), keys, (0..DRAWN as i32).collect())
    }

    /// Of rows `[_, 576]` the last columns: without a position, what a class tells keys apart by is part of the values.
    fn narrowed(&self, rows: Vec<bf16>) -> Vec<bf16> {
        match self.rope {
            ROPE => rows,
            _ => rows.chunks_exact(KEY).flat_map(|row| &row[KEY - self.key()..]).copied().collect(),
        }
    }
}

impl MlaDecodeProblem {
    /// Query tokens that are nobody's become numbers, so that any offsets can be computed with. They are of no class.
    #[must_use]
    pub fn with_spare_rows(mut self) -> Self {
        packed::fill_spare(&mut self.q);
        self.case.class = AttentionClass::Positive;
        self
    }

    /// Query tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.spec.packed_tokens.unwrap_or(self.spec.batch * self.spec.q_tokens)
    }

    /// Which of them are a sequence's.
    pub fn queries(&self, sequence: usize) -> Range<usize> {
        let most = self.spec.q_tokens;
        let Some(offsets) = &self.q_offsets else { return sequence * most..(sequence + 1) * most };
        let Range { start, end } = packed::range(offsets, self.tokens(), sequence);
        start..end.min(start + most)
    }

    /// The batch of one sequence, which has query tokens that are not packed, with the same cache.
    #[must_use]
    pub fn only(&self, sequence: usize) -> Self {
        let columns = self.table.len() / self.spec.batch;
        let queries = self.queries(sequence);
        let mut spec = self.spec.q_tokens(queries.len()).packed_tokens(None);
        spec.batch = 1;
        let row = self.spec.heads * self.case.key();
        let lengths = vec![self.case.lengths[sequence]];
        let case = MlaDecodeCase { lengths, q_tokens: queries.len(), packed: None, ..self.case.clone() };
        Self {
            case: MlaDecodeCase { alone: false, ..case },
            spec,
            lengths: vec![self.lengths[sequence]],
            q_offsets: None,
            table: self.table[sequence * columns..][..columns].to_vec(),
            q: self.q[queries.start * row..queries.end * row].to_vec(),
            cache: self.cache.clone(),
            finite: self.finite,
            bounds: Expected::default(),
            bits: Expected::default(),
        }
    }

    /// The first `pages` pages of 64 keys of every sequence, and the rest of it.
    #[must_use]
    pub fn halves(&self, pages: usize) -> [Self; 2] {
        let columns = self.table.len() / self.spec.batch;
        let (mut first, mut second) = (self.clone(), self.clone());
        // The query tokens are the last of the keys: none of the first part is hidden from them.
        first.spec.causal = false;
        // What is exact of the whole need not be of its parts.
        (first.case.class, second.case.class) = (AttentionClass::Positive, AttentionClass::Positive);
        for (sequence, &length) in self.lengths.iter().enumerate() {
            first.lengths[sequence] = length.min(64 * pages as i32);
            second.lengths[sequence] = length - first.lengths[sequence];
            let entries = &mut second.table[sequence * columns..][..columns];
            entries.rotate_left(pages);
            entries[columns - pages..].fill(STALE_PAGE);
        }
        [first, second]
    }

    /// What of a result is a sequence's: out, then lse.
    pub fn part<'o>(&self, outputs: &'o [Output], sequence: usize) -> Vec<&'o [u8]> {
        let queries = self.queries(sequence);
        let of = |output: &'o Output| {
            let bytes = output.bytes.len() / self.tokens().max(1);
            &output.bytes[queries.start * bytes..queries.end * bytes]
        };
        outputs.iter().map(of).collect()
    }

    /// Keys of a sequence, cut to those that its pages hold; none if it has, with all before it, more than all may have.
    pub(super) fn read(&self, sequence: usize) -> usize {
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
        let (width, (page_size, pages)) = (self.spec.format.columns(self.spec.rope), self.pages(sequence));
        if !self.case.repeated {
            return gather_pages(rows, width, page_size, &pages, self.read(sequence) as i32);
        }
        let row = |key: usize| pages[key / page_size] as usize * page_size + key % page_size;
        rows_of(rows, width, &(0..self.read(sequence)).map(row).collect::<Vec<_>>())
    }

    /// The keys of a sequence, as the kernel is to understand them. Those that no page holds are zeros, whatever the scale.
    pub(super) fn keys(&self, sequence: usize) -> Result<Vec<bf16>> {
        Ok(match &self.cache {
            CacheRows::Bf16(rows) => self.gathered(rows, sequence),
            CacheRows::Fp8(rows) => dequantize_kv_fp8(&self.gathered(rows, sequence), self.spec.rope)?,
            CacheRows::Fp8PerTensor { rows, scale } => {
                self.gathered(&dequantize_kv_fp8_per_tensor(rows, *scale), sequence)
            }
        })
    }

    /// Attention of some heads of a sequence.
    ///
    /// # Errors
    /// Of the shapes.
    pub fn reference(&self, sequence: usize, heads: &[usize]) -> Result<MlaBounded> {
        let q = rows_of(&self.q, self.case.key(), &self.rows(sequence, heads));
        let keys = self.keys(sequence)?;
        Ok(mla_decode(&self.sequence(sequence, &q, &keys, heads.len()))?)
    }

    /// As the oracles take it.
    pub(super) fn sequence<'a>(
        &self,
        sequence: usize,
        q: &'a [bf16],
        keys: &'a [bf16],
        heads: usize,
    ) -> MlaSequence<'a> {
        let MlaDecodeSpec { rope, softmax_scale: scale, causal, split_keys, .. } = self.spec;
        let q_tokens = self.queries(sequence).len();
        MlaSequence { q, keys, rope, q_tokens, heads, scale, causal, split_keys }
    }

    /// Rows of the step.
    pub(super) fn rows(&self, sequence: usize, heads: &[usize]) -> Vec<usize> {
        let of_token = |token| heads.iter().map(move |head| token * self.spec.heads + head);
        self.queries(sequence).flat_map(of_token).collect()
    }

    /// What a run has to report: lengths that no pages hold, more of them than said, query tokens that are no ranges in order, or
    /// too many, pages that there are not among those that are read, and rows of nothing but -Inf.
    pub(super) fn faults(&self) -> DataFaults {
        let fits = |sequence: usize| self.read(sequence) as i64 == i64::from(self.lengths[sequence]);
        let queries_fit = self.q_offsets.as_ref().is_none_or(|offsets| {
            let few = |sequence| packed::range(offsets, self.tokens(), sequence).len() <= self.spec.q_tokens;
            packed::in_order(offsets, self.tokens()) && (0..self.spec.batch).all(few)
        });
        let strange_page = match self.spec.paging {
            KvPaging::Contiguous { .. } => false,
            KvPaging::Paged { pages, page_size, .. } => (0..self.spec.batch).any(|sequence| {
                let keys = if self.queries(sequence).is_empty() { 0 } else { self.read(sequence) };
                let read = &self.pages(sequence).1[..keys.div_ceil(page_size)];
                !read.iter().all(|&page| (0..pages as i64).contains(&i64::from(page)))
            }),
        };
        let lengths_fit = (0..self.spec.batch).all(fits);
        fault_if(!lengths_fit || (self.spec.batch > 0 && !queries_fit), DataFaults::SEQUENCE_LENGTH)
            | fault_if(strange_page, DataFaults::PAGE_ID)
            | fault_if(self.has_lost_row(), DataFaults::NONFINITE_SCORE)
    }

    /// Whether a row sees keys of a split, and every one with a score of -Inf.
    fn has_lost_row(&self) -> bool {
        !self.finite && (0..self.spec.batch).any(|sequence| self.loses_row(sequence))
    }

    fn loses_row(&self, sequence: usize) -> bool {
        let Ok(keys) = self.keys(sequence) else { return false };
        let width = self.case.key();
        let MlaDecodeSpec { heads, causal, split_keys, .. } = self.spec;
        let queries = self.queries(sequence);
        let lost = |q: &[bf16], keys: &[bf16]| {
            let score = |k: &[bf16]| q.iter().zip(k).map(|(q, k)| q.to_f64() * k.to_f64()).sum::<f64>();
            keys.chunks(width * split_keys)
                .any(|split| split.chunks(width).all(|k| score(k) == f64::NEG_INFINITY))
        };
        (queries.start * heads..queries.end * heads).any(|row| {
            let hidden = if causal { queries.end - 1 - row / heads } else { 0 };
            let visible = (keys.len() / width).saturating_sub(hidden);
            lost(&self.q[row * width..][..width], &keys[..visible * width])
        })
    }
}

impl Problem for MlaDecodeProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(MlaDecodeRun::new(self, arena)?))
    }
}
