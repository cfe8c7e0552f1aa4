//! Checks of MLA decode.

use std::ops::Range;

use deepseek_kernels::mla::{EmptyLse, KvCache, KvFormat, KvPaging, MlaDecode, MlaDecodeArgs, MlaDecodeSpec};
use deepseek_kernels::{Buffer, Device, DeviceKind, Matrix, MatrixMut, bf16};
use oracles::mla::AttentionClass;
use oracles::mla::{
    FlashMlaBar, MlaBounded, MlaSequence, dequantize_kv_fp8, gather_pages, kv_append_bf16, kv_append_fp8,
    mla_decode,
};
use oracles::quant::QuantizeScale;

use super::judge::{Cell, first_difference, written};
use super::machine::{text, timed};
use super::report::Row;
use super::runner::{Job, Outcome};
use crate::judge::Check;

/// A decode step of some sequences whose pages lie in no order.
#[derive(Clone)]
pub struct AttentionJob {
    pub class: AttentionClass,
    pub format: KvFormat,
    /// Keys of each sequence.
    pub lengths: Vec<usize>,
    pub q_tokens: usize,
    pub heads: usize,
    pub split_keys: usize,
    /// Query tokens see the keys up to themselves only.
    pub causal: bool,
    pub seed: u64,
}

const KEY: usize = KvFormat::LATENT + KvFormat::ROPE;
const LATENT: usize = KvFormat::LATENT;
const PAGE: usize = 64;
/// DeepSeek-V3's.
const SCALE: f32 = 0.135_233_78;

/// Both caches with the mean of a power of two of keys, with one key that counts alone, and with ordinary data; several splits
/// a sequence, and sequences without keys.
pub fn jobs(kind: DeviceKind, seed: u64) -> Vec<AttentionJob> {
    let (heads, lengths, split_keys) = match kind {
        DeviceKind::Cuda => (128, vec![0, 4096, 1, 1024, 1500], 512),
        // Two query tokens make two tiles of rows, which share their keys.
        DeviceKind::Emulated => (64, vec![0, 256, 1, 301], 128),
    };
    let of = |format, (class, q_tokens)| AttentionJob {
        class,
        format,
        lengths: lengths.clone(),
        q_tokens,
        heads,
        split_keys,
        causal: q_tokens > 1,
        seed,
    };
    let cases = [(AttentionClass::Uniform, 1), (AttentionClass::OneKey, 2), (AttentionClass::Normal, 2)];
    [KvFormat::Bf16, KvFormat::Fp8]
        .into_iter()
        .flat_map(|format| cases.map(|case| of(format, case)))
        .collect()
}

impl Job for AttentionJob {
    fn label(&self) -> String {
        format!("{} {}", self.operation(), self.shape())
    }

    fn cost(&self) -> u128 {
        // A tile of rows costs the same with few of them; two products, and the checks launch again.
        let keys: usize = self.lengths.iter().map(|length| length.next_multiple_of(PAGE)).sum();
        (4 * self.rows().next_multiple_of(64) * keys * KEY) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let checked = self.check(device).unwrap_or_else(|failure| Checked {
            instance: String::new(),
            seconds: None,
            checks: vec![Check::failed("run", failure)],
        });
        Outcome::Rows(vec![Row {
            operation: self.operation(),
            shape: self.shape(),
            instance: checked.instance,
            data: self.class.to_string(),
            checks: checked.checks,
            seconds: checked.seconds,
            matrix: None,
        }])
    }
}

struct Checked {
    instance: String,
    seconds: Option<f64>,
    checks: Vec<Check>,
}

/// A step in host memory.
struct Problem {
    /// `[sequences * rows, 576]`.
    q: Vec<bf16>,
    /// `[sequences, pages_per_sequence]`.
    table: Vec<i32>,
    cache: Rows,
    /// Of each sequence, in order, as the kernel is to understand them.
    keys: Vec<Vec<bf16>>,
}

/// `[pages * 64, ..]`, NaN wherever no key lies.
enum Rows {
    Bf16(Vec<bf16>),
    Fp8(Vec<u8>),
}

impl Rows {
    fn upload(&self, device: &Device) -> Result<Cache, String> {
        Ok(match self {
            Self::Bf16(rows) => Cache::Bf16(device.upload(rows).map_err(text)?),
            Self::Fp8(rows) => Cache::Fp8(device.upload(rows).map_err(text)?),
        })
    }
}

enum Cache {
    Bf16(Buffer<bf16>),
    Fp8(Buffer<u8>),
}

/// What launches wrote.
struct Attended {
    out: Vec<bf16>,
    lse: Vec<f32>,
    instance: String,
    seconds: Option<f64>,
}

impl AttentionJob {
    fn operation(&self) -> String {
        let format = match self.format {
            KvFormat::Bf16 => "BF16",
            KvFormat::Fp8 => "FP8",
        };
        format!("MLA decode, {format} cache{}", if self.causal { ", causal" } else { "" })
    }

    /// Query tokens, heads, and the keys of each sequence.
    fn shape(&self) -> String {
        let lengths: Vec<String> = self.lengths.iter().map(ToString::to_string).collect();
        format!("{} x {} x {}", self.q_tokens, self.heads, lengths.join("+"))
    }

    /// Rows of Q of a sequence.
    fn rows(&self) -> usize {
        self.q_tokens * self.heads
    }

    fn pages_per_sequence(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0).div_ceil(PAGE)
    }

    fn pages(&self) -> usize {
        self.lengths.len() * self.pages_per_sequence()
    }

    /// The page that holds a sequence's n-th: the last one first, and neighbours of other sequences between.
    fn page(&self, sequence: usize, n: usize) -> usize {
        self.pages() - 1 - (n * self.lengths.len() + sequence)
    }

    fn problem(&self) -> Result<Problem, String> {
        let (mut q, mut latent, mut k_pe, mut slots) = (vec![], vec![], vec![], vec![]);
        for (index, &length) in self.lengths.iter().enumerate() {
            let seen = if self.causal { length.saturating_sub(self.q_tokens - 1) } else { length };
            let inputs = self.class.generate(self.rows(), length, seen, self.seed + index as u64);
            q.extend(inputs.q);
            for (token, key) in inputs.keys.chunks_exact(KEY).enumerate() {
                latent.extend_from_slice(&key[..LATENT]);
                k_pe.extend_from_slice(&key[LATENT..]);
                slots.push((self.page(index, token / PAGE) * PAGE + token % PAGE) as i32);
            }
        }
        let elements = self.pages() * PAGE * self.format.columns();
        let cache = match self.format {
            KvFormat::Bf16 => {
                let mut rows = vec![bf16::SENTINEL; elements];
                kv_append_bf16(&latent, &k_pe, &slots, &mut rows).map_err(text)?;
                Rows::Bf16(rows)
            }
            KvFormat::Fp8 => {
                let mut rows = vec![0xff; elements];
                kv_append_fp8(&latent, &k_pe, &slots, QuantizeScale::PowerOfTwo, &mut rows).map_err(text)?;
                Rows::Fp8(rows)
            }
        };
        let columns = self.pages_per_sequence();
        let entry = |i: usize| self.page(i / columns, i % columns) as i32;
        let table: Vec<i32> = (0..self.pages()).map(entry).collect();
        let keys = (0..self.lengths.len()).map(|index| {
            let (pages, length) = (&table[index * columns..][..columns], self.lengths[index] as i32);
            match &cache {
                Rows::Bf16(rows) => Ok(gather_pages(rows, KEY, PAGE, pages, length)),
                Rows::Fp8(rows) => {
                    dequantize_kv_fp8(&gather_pages(rows, self.format.columns(), PAGE, pages, length))
                }
            }
        });
        let keys = keys.collect::<Result<_, _>>().map_err(text)?;
        Ok(Problem { q, table, cache, keys })
    }

    fn check(&self, device: &Device) -> Result<Checked, String> {
        let problem = self.problem()?;
        let cache = problem.cache.upload(device)?;
        let all = self.attend(device, &problem, &cache, 0..self.lengths.len())?;
        let mut checks = vec![written(&all.out, LATENT)];
        checks.extend(self.judge(&problem, &all)?);
        checks.push(self.batch_invariance(device, &problem, &cache, &all)?);
        checks.push(Check::equal("report", 1, device.poll_error().err().map(text)));
        Ok(Checked { instance: all.instance, seconds: all.seconds, checks })
    }

    /// Runs the step of some sequences.
    fn attend(
        &self,
        device: &Device,
        problem: &Problem,
        cache: &Cache,
        sequences: Range<usize>,
    ) -> Result<Attended, String> {
        let (batch, columns) = (sequences.len(), self.pages_per_sequence());
        let rows = batch * self.rows();
        let spec = MlaDecodeSpec {
            batch,
            q_tokens: self.q_tokens,
            heads: self.heads,
            format: self.format,
            paging: KvPaging::Paged { pages: self.pages(), page_size: PAGE, pages_per_sequence: columns },
            softmax_scale: SCALE,
            causal: self.causal,
            split_keys: self.split_keys,
            empty_lse: EmptyLse::NegativeInfinity,
        };
        let plan = MlaDecode::plan(device, spec).map_err(text)?;
        let upload = |data: &[bf16]| device.upload(data).map_err(text);
        let q = upload(&problem.q[sequences.start * self.rows() * KEY..][..rows * KEY])?;
        let table = &problem.table[sequences.start * columns..][..batch * columns];
        let table = device.upload(table).map_err(text)?;
        let lengths: Vec<i32> = self.lengths[sequences].iter().map(|&length| length as i32).collect();
        let lengths = device.upload(&lengths).map_err(text)?;
        let mut tables = device.upload(&vec![u32::MAX; plan.tables()]).map_err(text)?;
        let mut partials = device.upload(&vec![f32::SENTINEL; plan.partials()]).map_err(text)?;
        let mut out = upload(&vec![bf16::SENTINEL; rows * LATENT])?;
        let mut lse = device.upload(&vec![f32::SENTINEL; rows]).map_err(text)?;
        let cache_rows = self.pages() * PAGE;
        let seconds = timed(device, |stream| {
            let args = MlaDecodeArgs {
                q: Matrix::new(&q, rows, KEY)?,
                cache: match cache {
                    Cache::Bf16(buffer) => KvCache::Bf16(Matrix::new(buffer, cache_rows, KEY)?),
                    Cache::Fp8(buffer) => {
                        KvCache::Fp8(Matrix::new(buffer, cache_rows, self.format.columns())?)
                    }
                },
                page_table: Some(Matrix::new(&table, batch, columns)?),
                partials: MatrixMut::new(&mut partials, 1, plan.partials())?,
                out: MatrixMut::new(&mut out, rows, LATENT)?,
                lse: MatrixMut::new(&mut lse, batch * self.q_tokens, self.heads)?,
            };
            let tables = MatrixMut::new(&mut tables, 1, plan.tables())?;
            plan.run(stream, Matrix::new(&lengths, 1, batch)?, tables, args)
        })?;
        Ok(Attended {
            out: out.to_vec().map_err(text)?,
            lse: lse.to_vec().map_err(text)?,
            instance: format!("{}, up to {} splits", plan.choice().instance.name(), plan.choice().max_splits),
            seconds,
        })
    }

    /// Each sequence by the oracles that its class has, joined.
    fn judge(&self, problem: &Problem, got: &Attended) -> Result<Vec<Check>, String> {
        let mut joined: Vec<Check> = vec![];
        for (index, keys) in problem.keys.iter().enumerate() {
            let (first, rows) = (index * self.rows(), self.rows());
            let sequence = MlaSequence {
                q: &problem.q[first * KEY..][..rows * KEY],
                keys,
                q_tokens: self.q_tokens,
                heads: self.heads,
                scale: SCALE,
                causal: self.causal,
                split_keys: self.split_keys,
            };
            let reference = mla_decode(&sequence).map_err(text)?;
            let (out, lse) = (&got.out[first * LATENT..][..rows * LATENT], &got.lse[first..][..rows]);
            let mut checks = vec![
                Check::of("bound", &reference.check_out(out).map_err(text)?, None),
                Check::of("bound of lse", &reference.check_lse(lse).map_err(text)?, None),
            ];
            checks.extend(self.exact(index, &reference, out));
            checks.extend(self.flash_mla(&reference, out, lse)?);
            for check in &mut checks {
                check.failure = check.failure.take().map(|failure| format!("sequence {index}: {failure}"));
            }
            joined = if joined.is_empty() {
                checks
            } else {
                joined.into_iter().zip(checks).map(|(all, one)| all.and(one)).collect()
            };
        }
        Ok(joined)
    }

    /// Where only one result is right: the mean of equal weights, or the value of the only key that counts.
    fn exact(&self, index: usize, reference: &MlaBounded, out: &[bf16]) -> Option<Check> {
        let oracle = match self.class {
            AttentionClass::Uniform => "exact mean",
            AttentionClass::OneKey => "dominant key",
            _ => return None,
        };
        let hidden = |row: usize| if self.causal { self.q_tokens - 1 - row / self.heads } else { 0 };
        let judged = |i: &usize| self.class.is_exact(self.lengths[index].saturating_sub(hidden(i / LATENT)));
        let elements: Vec<usize> = (0..out.len()).filter(judged).collect();
        let expected = |i: usize| bf16::from_f64(reference.out[i]);
        let wrong = elements.iter().find(|&&i| out[i].to_bits() != expected(i).to_bits());
        let failure = wrong.map(|&i| {
            format!("out[{}, {}]: expected {}, got {}", i / LATENT, i % LATENT, expected(i), out[i])
        });
        Some(Check::equal(oracle, elements.len(), failure))
    }

    /// FlashMLA's own thresholds, on its own kind of data.
    fn flash_mla(&self, reference: &MlaBounded, out: &[bf16], lse: &[f32]) -> Result<Option<Check>, String> {
        if self.class != AttentionClass::Normal {
            return Ok(None);
        }
        let out: Vec<f32> = out.iter().map(|x| x.to_f32()).collect();
        let of = |bar: FlashMlaBar, expected: &[f64], got: &[f32]| {
            let verdict = bar.check(expected, got).map_err(text)?;
            Ok::<_, String>(Check {
                oracle: "FlashMLA's bar",
                checked: got.len(),
                sample: None,
                worst: Some(verdict.worst_ratio.max(verdict.cosine_ratio)).filter(|worst| worst.is_finite()),
                failure: (!verdict.accepted()).then(|| verdict.to_string()),
            })
        };
        let judged = of(FlashMlaBar::OUT, &reference.out, &out)?;
        Ok(Some(judged.and(of(FlashMlaBar::LSE, &reference.lse, lse)?)))
    }

    /// A sequence alone gives the bits that it gives in the batch.
    fn batch_invariance(
        &self,
        device: &Device,
        problem: &Problem,
        cache: &Cache,
        all: &Attended,
    ) -> Result<Check, String> {
        let mut failure = None;
        for index in 0..self.lengths.len() {
            let alone = self.attend(device, problem, cache, index..index + 1)?;
            let first = index * self.rows();
            let out =
                all.out[first * LATENT..].iter().zip(&alone.out).all(|(a, b)| a.to_bits() == b.to_bits());
            let lse = first_difference(&alone.lse, &all.lse[first..][..self.rows()]).is_none();
            let differs = || format!("sequence {index} alone gives other bits than in the batch");
            failure = failure.or_else(|| (!(out && lse)).then(differs));
        }
        Ok(Check::equal("batch invariance", all.out.len() + all.lse.len(), failure))
    }
}

#[cfg(test)]
mod tests;
