//! The inputs of a prefill, and what the reference makes of them.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::MlaPrefillSpec;
use deepseek_kernels::{DataFaults, bf16};
use oracles::ShapeError;
use oracles::mla::{
    Approximations, AttentionClass, HeadColumns, MlaBits, MlaBounded, MlaHead, mla_prefill, mla_prefill_bits,
};

use super::{DRAWN, KeyLayout, MlaPrefillCase, MlaPrefillRun};
use crate::case::{Expected, Prepared, Problem, fault_if};
use crate::data::rows_of;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Output, Scalar};
use crate::mla::lse::from_order;
use crate::mla::lse::logarithm;
use crate::mla::{LATENT, ROPE, packed, spread};

/// Pairs of a query and a key of a head that are judged at most; of more, so many tokens of a sequence are, and three heads.
const JUDGED: (usize, usize) = (1 << 21, 7);
/// Tokens of a head of a sequence whose bits are.
const JUDGED_BITS: usize = 20;

/// A prefill with its inputs.
#[derive(Debug, Clone)]
pub struct MlaPrefillProblem {
    pub case: MlaPrefillCase,
    pub spec: MlaPrefillSpec,
    /// On the device: `[batch + 1]`.
    pub q_offsets: Vec<i32>,
    pub k_offsets: Vec<i32>,
    /// `[tokens, heads, nope + 64]`, or fewer tokens that repeat. What is nobody's is NaN.
    pub q: Vec<bf16>,
    /// `[keys, heads, nope]`, or fewer keys that repeat, as all that follow.
    pub k_nope: Vec<bf16>,
    /// `[keys, 1 or heads, 64]`.
    pub k_pe: Vec<bf16>,
    /// `[keys, heads, value]`.
    pub v: Vec<bf16>,
    /// Every query, key and value is finite. Of others the bound says nothing.
    pub finite: bool,
    pub bounds: Expected<Vec<OfHead<MlaBounded>>>,
    pub bits: Expected<Vec<OfHead<MlaBits>>>,
}

/// What a reference says of some query tokens of a head of a sequence.
pub struct OfHead<R> {
    sequence: usize,
    head: usize,
    tokens: Vec<usize>,
    /// Keys that each of them sees.
    visible: Vec<usize>,
    reference: R,
    /// Rows and columns, unless they are all.
    sample: Option<[usize; 2]>,
}

/// What a head takes of the columns that the classes draw: every head other values and, but for the position, other keys.
fn columns(columns: HeadColumns, head: usize) -> (Range<usize>, Range<usize>) {
    const MIDDLE: usize = LATENT / 2;
    let (value, nope) = (32 * head % MIDDLE, MIDDLE + 32 * head % (MIDDLE - columns.nope));
    (value..value + columns.value, nope..nope + columns.nope)
}

impl MlaPrefillCase {
    /// With its inputs.
    ///
    /// # Errors
    /// Of the sizes.
    pub fn problem(self) -> Result<MlaPrefillProblem> {
        let (tokens, keys): (Vec<_>, Vec<_>) = self.sequences.iter().copied().unzip();
        let spec = self.spec();
        let mut problem = MlaPrefillProblem {
            q_offsets: packed::offsets(0, &tokens),
            k_offsets: packed::offsets(0, &keys),
            q: vec![],
            k_nope: vec![],
            k_pe: vec![],
            v: vec![],
            finite: true,
            spec,
            case: self,
            bounds: Expected::default(),
            bits: Expected::default(),
        };
        if problem.case.repeated {
            problem.draw((DRAWN, DRAWN), 0);
        } else {
            for (index, sequence) in problem.case.sequences.clone().into_iter().enumerate() {
                problem.draw(sequence, index as u64);
            }
            let MlaPrefillSpec { tokens, keys, heads, .. } = spec;
            let columns = problem.case.columns;
            problem.q.resize(tokens * heads * columns.key(), bf16::POISON);
            problem.k_nope.resize(keys * heads * columns.nope, bf16::POISON);
            problem.k_pe.resize(keys * problem.case.k_pe_heads() * ROPE, bf16::POISON);
            problem.v.resize(keys * heads * columns.value, bf16::POISON);
        }
        Ok(problem)
    }
}

impl MlaPrefillProblem {
    /// Adds a sequence. Where heads have positions of their own, those are the same ones in another order.
    fn draw(&mut self, (tokens, keys): (usize, usize), index: u64) {
        let Self { case, q, k_nope, k_pe, v, .. } = self;
        let (heads, own) = (case.heads, case.layout == KeyLayout::Joined);
        let seen = if case.causal { (keys + 1).saturating_sub(tokens) } else { keys };
        let inputs = case.class.generate(tokens * heads, keys, seen, case.seed + index);
        let rotated = |row: &[bf16], head: usize| {
            let mut position = row[LATENT..].to_vec();
            position.rotate_left(if own { 16 * head % ROPE } else { 0 });
            position
        };
        for (i, row) in inputs.q.chunks_exact(LATENT + ROPE).enumerate() {
            q.extend_from_slice(&row[columns(case.columns, i % heads).1]);
            q.extend(rotated(row, i % heads));
        }
        for row in inputs.keys.chunks_exact(LATENT + ROPE) {
            for head in 0..heads {
                let (value, nope) = columns(case.columns, head);
                k_nope.extend_from_slice(&row[nope]);
                v.extend_from_slice(&row[value]);
            }
            k_pe.extend((0..case.k_pe_heads()).flat_map(|head| rotated(row, head)));
        }
    }

    /// What is nobody's becomes numbers, so that any offsets can be computed with.
    #[must_use]
    pub fn with_spare_rows(mut self) -> Self {
        for rows in [&mut self.q, &mut self.k_nope, &mut self.k_pe, &mut self.v] {
            packed::fill_spare(rows);
        }
        // They are of no class.
        self.case.class = AttentionClass::Positive;
        self
    }

    /// The batch of one sequence, of whose query tokens the last ones alone are there.
    #[must_use]
    pub fn only(&self, sequence: usize, tokens: usize) -> Self {
        let (q, k) = self.ranges(sequence);
        let q = q.end - tokens..q.end;
        let case = MlaPrefillCase { sequences: vec![(tokens, k.len())], alone: false, ..self.case.clone() };
        let (heads, k_pe_heads, of_head) = (case.heads, case.k_pe_heads(), case.columns);
        let of = |rows: &[bf16], columns: usize, range: &Range<usize>, spare: usize| {
            let mut part = rows_of(rows, columns, &range.clone().collect::<Vec<_>>());
            part.resize((range.len() + spare) * columns, bf16::POISON);
            part
        };
        let spec = case.spec();
        let (spare_q, spare_k) = (spec.tokens - tokens, spec.keys - k.len());
        Self {
            q_offsets: vec![0, tokens as i32],
            k_offsets: vec![0, k.len() as i32],
            q: of(&self.q, heads * of_head.key(), &q, spare_q),
            k_nope: of(&self.k_nope, heads * of_head.nope, &k, spare_k),
            k_pe: of(&self.k_pe, k_pe_heads * ROPE, &k, spare_k),
            v: of(&self.v, heads * of_head.value, &k, spare_k),
            finite: self.finite,
            case: MlaPrefillCase { repeated: false, ..case },
            spec,
            bounds: Expected::default(),
            bits: Expected::default(),
        }
    }

    /// Rows of a sequence's queries and of its keys.
    pub fn ranges(&self, sequence: usize) -> (Range<usize>, Range<usize>) {
        let queries = packed::range(&self.q_offsets, self.spec.tokens, sequence);
        (queries, packed::range(&self.k_offsets, self.spec.keys, sequence))
    }

    /// The last `tokens` rows of a sequence's results: out, then the bits of lse, by tokens.
    pub fn part<'o>(&self, outputs: &'o [Output], sequence: usize, tokens: usize) -> (&'o [u8], Vec<u32>) {
        let end = self.ranges(sequence).0.end;
        let [out, lse] = outputs else { panic!("out and lse") };
        let (MlaPrefillSpec { heads, lse_order, .. }, bytes) =
            (self.spec, out.bytes.len() / self.spec.tokens);
        let lse = from_order(lse_order, heads, &lse.widened());
        let lse = lse[(end - tokens) * heads..end * heads].iter().map(|x| x.to_bits()).collect();
        (&out.bytes[(end - tokens) * bytes..end * bytes], lse)
    }

    /// One head of a sequence: queries, keys, values.
    fn head(&self, sequence: usize, head: usize) -> [Vec<bf16>; 3] {
        let (heads, k_pe_heads) = (self.spec.heads, self.case.k_pe_heads());
        let (q, k) = self.ranges(sequence);
        let of = |rows: &[bf16], heads: usize, columns: usize, range: &Range<usize>, head: usize| {
            let there = (rows.len() / (heads * columns)).max(1);
            let places: Vec<usize> = range.clone().map(|row| row % there * heads + head).collect();
            rows_of(rows, columns, &places)
        };
        let of_head = self.case.columns;
        let nope = of(&self.k_nope, heads, of_head.nope, &k, head);
        let pe = of(&self.k_pe, k_pe_heads, ROPE, &k, head % k_pe_heads);
        let parts = nope.chunks_exact(of_head.nope).zip(pe.chunks_exact(ROPE));
        let keys = parts.flat_map(|(nope, pe)| [nope, pe].concat()).collect();
        [of(&self.q, heads, of_head.key(), &q, head), keys, of(&self.v, heads, of_head.value, &k, head)]
    }

    /// As the oracles take it.
    fn oracle<'a>(&self, [q, keys, values]: &'a [Vec<bf16>; 3]) -> MlaHead<'a> {
        let MlaPrefillSpec { softmax_scale: scale, causal, .. } = self.spec;
        MlaHead { columns: self.case.columns, q, keys, values, scale, causal }
    }

    /// What a run has to report: offsets that are no ranges in order, and rows of nothing but -Inf.
    pub(super) fn faults(&self) -> DataFaults {
        let in_order = packed::in_order(&self.q_offsets, self.spec.tokens)
            && packed::in_order(&self.k_offsets, self.spec.keys);
        // Of nothing, nobody asks.
        fault_if(self.spec.batch > 0 && !in_order, DataFaults::SEQUENCE_LENGTH)
            | fault_if(self.loses_row(), DataFaults::NONFINITE_SCORE)
    }

    /// Whether a row sees keys, and every one with a score of -Inf.
    fn loses_row(&self) -> bool {
        let pairs = (0..self.spec.batch).flat_map(|b| (0..self.spec.heads).map(move |head| (b, head)));
        let lost = |(sequence, head): (usize, usize)| {
            let operands = self.head(sequence, head);
            let oracle = self.oracle(&operands);
            let score =
                |q: &[bf16], k: &[bf16]| q.iter().zip(k).map(|(q, k)| q.to_f64() * k.to_f64()).sum::<f64>();
            let key = self.case.columns.key();
            oracle.q.chunks(key).enumerate().any(|(token, q)| {
                let mut keys = oracle.keys.chunks(key).take(oracle.visible(token)).peekable();
                keys.peek().is_some() && keys.all(|k| score(q, k) == f64::NEG_INFINITY)
            })
        };
        !self.finite && pairs.into_iter().any(lost)
    }

    /// Tokens of a sequence and heads that are judged: all, or a few of a large or briefly judged prefill.
    fn judged(&self, scrutiny: Scrutiny) -> (usize, Vec<usize>) {
        let pairs = |sequence| {
            let (q, k) = self.ranges(sequence);
            q.len() * k.len()
        };
        let all: usize = (0..self.spec.batch).map(pairs).sum();
        let heads = self.spec.heads;
        if scrutiny == Scrutiny::Thorough && heads * all <= JUDGED.0 {
            return (usize::MAX, (0..heads).collect());
        }
        (JUDGED.1, spread(heads, 3))
    }

    /// Asks a reference of tokens, spread over at most so many, of every head that is judged.
    fn ask<R>(
        &self,
        scrutiny: Scrutiny,
        most: usize,
        reference: impl Fn(&MlaHead, &[usize]) -> Result<R, ShapeError>,
    ) -> Result<Vec<OfHead<R>>> {
        let heads = self.judged(scrutiny).1;
        let pairs = (0..self.spec.batch).flat_map(|sequence| heads.iter().map(move |&head| (sequence, head)));
        let ask = |(sequence, head)| {
            let operands = self.head(sequence, head);
            let oracle = self.oracle(&operands);
            let count = oracle.q.len() / self.case.columns.key();
            let tokens = spread(count, most);
            Ok(OfHead {
                sequence,
                head,
                reference: reference(&oracle, &tokens)?,
                visible: tokens.iter().map(|&token| oracle.visible(token)).collect(),
                sample: (tokens.len() < count).then_some([tokens.len(), self.case.columns.value]),
                tokens,
            })
        };
        pairs.map(ask).collect()
    }

    /// The bound, and what is exact of the class; and on the emulator its bits, whatever the operands.
    pub(super) fn judge(
        &self,
        out: &[bf16],
        lse: &[f32],
        scrutiny: Scrutiny,
        emulated: bool,
    ) -> Result<Vec<Check>> {
        let mut checks = vec![];
        if self.finite {
            let ask = || self.ask(scrutiny, self.judged(scrutiny).0, mla_prefill);
            let heads = self.bounds.get(scrutiny, ask)?;
            checks.extend(self.judge_heads(heads, out, lse, |head, out, lse| {
                let OfHead { reference, sample, .. } = head;
                let bound = Check::of("bound", &reference.check_out(out)?, *sample);
                let bound_of_lse = Check::of("bound of lse", &reference.check_lse(lse)?, *sample);
                Ok([bound, bound_of_lse].into_iter().chain(self.exact(head, out)).collect())
            })?);
        }
        if emulated {
            let bits =
                |head: &MlaHead, tokens: &[usize]| mla_prefill_bits(head, tokens, Approximations::ROUNDED);
            let heads = self.bits.get(scrutiny, || self.ask(scrutiny, JUDGED_BITS, bits))?;
            checks.extend(self.judge_heads(
                heads,
                out,
                lse,
                |OfHead { reference, sample, .. }, out, lse| {
                    let bits = Check::of("bit model", &reference.check_out(out)?, *sample);
                    Ok(vec![bits, Check::of("bit model of lse", &reference.check_lse(lse)?, *sample)])
                },
            )?);
        }
        Ok(checks)
    }

    /// What is said of each head's results, as of one.
    fn judge_heads<R>(
        &self,
        heads: &[OfHead<R>],
        out: &[bf16],
        lse: &[f32],
        judge: impl Fn(&OfHead<R>, &[bf16], &[f32]) -> Result<Vec<Check>>,
    ) -> Result<Vec<Check>> {
        let mut joined: Vec<Check> = vec![];
        for of_head in heads {
            let OfHead { sequence, head, tokens, .. } = of_head;
            let start = self.ranges(*sequence).0.start;
            let places: Vec<usize> =
                tokens.iter().map(|token| (start + token) * self.spec.heads + head).collect();
            let lse: Vec<f32> =
                places.iter().map(|&place| logarithm(self.spec.empty_lse, lse[place])).collect();
            let mut checks = judge(of_head, &rows_of(out, self.case.columns.value, &places), &lse)?;
            for check in &mut checks {
                let failure = check.failure.take();
                check.failure = failure.map(|failure| format!("sequence {sequence}, head {head}: {failure}"));
            }
            joined = Check::join(joined, checks);
        }
        Ok(joined)
    }

    /// Where only one result is right: the mean of equal weights, or the value of the only key that counts.
    fn exact(&self, head: &OfHead<MlaBounded>, out: &[bf16]) -> Option<Check> {
        let name = match self.case.class {
            AttentionClass::Uniform => "exact mean",
            AttentionClass::OneKey => "dominant key",
            _ => return None,
        };
        let value = self.case.columns.value;
        let judged = |&i: &usize| self.case.class.is_exact(head.visible[i / value]);
        let elements: Vec<usize> = (0..out.len()).filter(judged).collect();
        let expected = |i: usize| bf16::from_f64(head.reference.out[i]);
        let wrong = elements.iter().find(|&&i| out[i].to_bits() != expected(i).to_bits());
        let failure = wrong.map(|&i| {
            let (token, column) = (head.tokens[i / value], i % value);
            format!("out[{token}, {column}]: expected {}, got {}", expected(i), out[i])
        });
        Some(Check::equal(name, elements.len(), failure))
    }
}

impl Problem for MlaPrefillProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(MlaPrefillRun::new(self, arena)?))
    }
}
