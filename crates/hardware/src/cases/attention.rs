//! MLA decode: schedule, attention and combine.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{
    DEFAULT_SPLIT_KEYS, EmptyLse, KvCache, KvFormat, KvPaging, MlaDecode, MlaDecodeArgs, MlaDecodeSpec,
    MlaInstance,
};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Stream, bf16};
use oracles::mla::AttentionClass;
use oracles::mla::{MlaSequence, dequantize_kv_fp8, kv_append_fp8, mla_decode};
use oracles::quant::QuantizeScale;

use super::{SEED, repeated};
use crate::case::{Case, Judgement, Output, Prepared, Work, unwritten};

const LATENT: usize = KvFormat::LATENT;
const KEY: usize = LATENT + KvFormat::ROPE;
const PAGE: usize = 64;
/// Of an H100.
const MULTIPROCESSORS: u32 = 132;
/// DeepSeek-V3's.
const SCALE: f32 = 0.135_233_78;
/// Pairs of a query row and a key that are judged in full; beyond, the reference takes its time.
const JUDGED_PAIRS: usize = 1 << 16;
/// Keys that differ; the cache repeats them. A prime, so that no two pages near each other are alike.
const KEYS: usize = 4099;

/// A decode step of sequences of one length, whose pages lie in no order.
#[derive(Debug, Clone, Copy)]
pub struct AttentionCase {
    /// What the cache holds.
    pub format: KvFormat,
    /// Sequences.
    pub batch: usize,
    /// Keys of each.
    pub length: usize,
    /// Query tokens of each; more than one are causal.
    pub q_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Keys per split, instead of those that suit an H100 best.
    pub split_keys: Option<usize>,
    /// Instead of the planner's choice: CTAs that share the keys.
    pub cluster: Option<u32>,
}

impl AttentionCase {
    /// One query token of 128 heads, with the usual splits.
    pub const fn decode(format: KvFormat, batch: usize, length: usize) -> Self {
        Self { format, batch, length, q_tokens: 1, heads: 128, split_keys: None, cluster: None }
    }

    fn rows(&self) -> usize {
        self.batch * self.q_tokens * self.heads
    }

    fn pages_per_sequence(&self) -> usize {
        self.length.div_ceil(PAGE)
    }

    fn pages(&self) -> usize {
        self.batch * self.pages_per_sequence()
    }

    /// The page that holds a sequence's n-th: the last one first, and neighbours of other sequences between.
    fn page(&self, sequence: usize, n: usize) -> usize {
        self.pages() - 1 - (n * self.batch + sequence)
    }

    /// Those that are judged.
    fn sequences_judged(&self) -> Vec<usize> {
        if self.is_small() { (0..self.batch).collect() } else { vec![0, self.batch - 1] }
    }

    fn heads_judged(&self) -> Vec<usize> {
        if self.is_small() { (0..self.heads).collect() } else { vec![0, self.heads - 1] }
    }

    fn is_small(&self) -> bool {
        self.rows() * self.length <= JUDGED_PAIRS
    }

    fn spec(&self) -> MlaDecodeSpec {
        let Self { format, batch, q_tokens, heads, split_keys, .. } = *self;
        let (pages, pages_per_sequence) = (self.pages(), self.pages_per_sequence());
        let spec = MlaDecodeSpec {
            batch,
            q_tokens,
            heads,
            format,
            paging: KvPaging::Paged { pages, page_size: PAGE, pages_per_sequence },
            softmax_scale: SCALE,
            causal: q_tokens > 1,
            split_keys: DEFAULT_SPLIT_KEYS,
            empty_lse: EmptyLse::NegativeInfinity,
        };
        let split_keys = split_keys.unwrap_or_else(|| spec.fastest_split(self.length, MULTIPROCESSORS));
        MlaDecodeSpec { split_keys, ..spec }
    }
}

impl Case for AttentionCase {
    fn operation(&self) -> &'static str {
        match self.format {
            KvFormat::Bf16 => "mla_decode_bf16",
            KvFormat::Fp8 => "mla_decode_fp8",
        }
    }

    fn shape(&self) -> String {
        let Self { batch, length, q_tokens, heads, cluster, split_keys, .. } = self;
        let split = split_keys.map(|split| format!("_split{split}"));
        let cluster = cluster.map(|c| format!("_c{c}"));
        format!(
            "b{batch}q{q_tokens}s{length}h{heads}{}{}",
            cluster.unwrap_or_default(),
            split.unwrap_or_default()
        )
    }

    fn work(&self) -> Work {
        let keys = self.batch * self.length;
        let key_bytes = match self.format {
            KvFormat::Bf16 => 2 * KEY,
            KvFormat::Fp8 => KvFormat::Fp8.columns(),
        };
        Work {
            flops: (2 * self.q_tokens * self.heads * keys * (KEY + LATENT)) as u64,
            bytes: (2 * self.rows() * (KEY + LATENT) + keys * key_bytes) as u64,
        }
    }

    /// `ex2.approx` and `lg2.approx` are specified to a bound, not to the bit.
    fn portable_bits(&self) -> bool {
        false
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let inputs = Arc::new(Inputs::new(self)?);
        (0..sets).map(|_| Ok(Box::new(Problem::new(device, *self, inputs.clone())?) as _)).collect()
    }
}

struct Inputs {
    q: Vec<bf16>,
    /// `[KEYS, 576]`, as the kernel is to understand them.
    keys: Vec<bf16>,
    /// `[KEYS, 656]` of an FP8 cache.
    stored: Vec<u8>,
}

impl Inputs {
    fn new(case: &AttentionCase) -> Result<Self> {
        let drawn = AttentionClass::Normal.generate(case.rows(), KEYS, KEYS, SEED);
        if case.format == KvFormat::Bf16 {
            return Ok(Self { q: drawn.q, keys: drawn.keys, stored: vec![] });
        }
        let (latent, k_pe): (Vec<_>, Vec<_>) =
            drawn.keys.chunks_exact(KEY).map(|key| key.split_at(LATENT)).unzip();
        let slots: Vec<i32> = (0..KEYS as i32).collect();
        let mut stored = vec![0; KEYS * KvFormat::Fp8.columns()];
        kv_append_fp8(&latent.concat(), &k_pe.concat(), &slots, QuantizeScale::PowerOfTwo, &mut stored)?;
        Ok(Self { q: drawn.q, keys: dequantize_kv_fp8(&stored)?, stored })
    }
}

enum Cache {
    Bf16(Buffer<bf16>),
    Fp8(Buffer<u8>),
}

struct Problem {
    case: AttentionCase,
    inputs: Arc<Inputs>,
    plan: MlaDecode,
    q: Buffer<bf16>,
    cache: Cache,
    table: Buffer<i32>,
    lengths: Buffer<i32>,
    tables: Buffer<u32>,
    partials: Buffer<f32>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
}

impl Problem {
    fn new(device: &Device, case: AttentionCase, inputs: Arc<Inputs>) -> Result<Self> {
        let rows = case.pages() * PAGE;
        let plan = match case.cluster {
            None => MlaDecode::plan(device, case.spec())?,
            Some(cluster) => {
                let instance = MlaInstance { fp8_cache: case.format == KvFormat::Fp8, cluster };
                MlaDecode::plan_instance(device, case.spec(), instance)?
            }
        };
        let columns = case.pages_per_sequence();
        let table: Vec<i32> = (0..case.pages()).map(|i| case.page(i / columns, i % columns) as i32).collect();
        Ok(Self {
            q: device.upload(&inputs.q)?,
            cache: match case.format {
                KvFormat::Bf16 => Cache::Bf16(device.upload(&repeated(&inputs.keys, KEY, rows))?),
                KvFormat::Fp8 => {
                    Cache::Fp8(device.upload(&repeated(&inputs.stored, KvFormat::Fp8.columns(), rows))?)
                }
            },
            table: device.upload(&table)?,
            lengths: device.upload(&vec![case.length as i32; case.batch])?,
            tables: unwritten(device, plan.tables())?,
            partials: unwritten(device, plan.partials())?,
            out: unwritten(device, case.rows() * LATENT)?,
            lse: unwritten(device, case.rows())?,
            plan,
            case,
            inputs,
        })
    }
}

impl Prepared for Problem {
    fn instance(&self) -> String {
        self.plan.choice().instance.name()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let (case, rows) = (self.case, self.case.rows());
        let cache_rows = case.pages() * PAGE;
        let args = MlaDecodeArgs {
            q: Matrix::new(&self.q, rows, KEY)?,
            cache: match &self.cache {
                Cache::Bf16(cache) => KvCache::Bf16(Matrix::new(cache, cache_rows, KEY)?),
                Cache::Fp8(cache) => KvCache::Fp8(Matrix::new(cache, cache_rows, KvFormat::Fp8.columns())?),
            },
            page_table: Some(Matrix::new(&self.table, case.batch, case.pages_per_sequence())?),
            partials: MatrixMut::new(&mut self.partials, 1, self.plan.partials())?,
            out: MatrixMut::new(&mut self.out, rows, LATENT)?,
            lse: MatrixMut::new(&mut self.lse, case.batch * case.q_tokens, case.heads)?,
        };
        let tables = MatrixMut::new(&mut self.tables, 1, self.plan.tables())?;
        self.plan.run(stream, Matrix::new(&self.lengths, 1, case.batch)?, tables, args)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.out)?, Output::read("lse", &self.lse)?])
    }

    /// Everything, or of a large case the first and the last head of the first and the last sequence.
    fn judge(&self) -> Result<Judgement> {
        let (out, lse) = (self.out.to_vec()?, self.lse.to_vec()?);
        let AttentionCase { q_tokens, heads, length, .. } = self.case;
        let split_keys = self.case.spec().split_keys;
        let heads_judged = self.case.heads_judged();
        let mut joined: Option<Judgement> = None;
        for sequence in self.case.sequences_judged() {
            let stored = |key: usize| (self.case.page(sequence, key / PAGE) * PAGE + key % PAGE) % KEYS;
            let keys: Vec<bf16> =
                (0..length).flat_map(|key| &self.inputs.keys[stored(key) * KEY..][..KEY]).copied().collect();
            let rows: Vec<usize> = (0..q_tokens)
                .flat_map(|token| {
                    heads_judged.iter().map(move |head| (sequence * q_tokens + token) * heads + head)
                })
                .collect();
            let pick = |from: &[bf16], width: usize| -> Vec<bf16> {
                rows.iter().flat_map(|&row| &from[row * width..][..width]).copied().collect()
            };
            let q = pick(&self.inputs.q, KEY);
            let causal = q_tokens > 1;
            let heads = heads_judged.len();
            let part = MlaSequence { q: &q, keys: &keys, q_tokens, heads, scale: SCALE, causal, split_keys };
            let reference = mla_decode(&part)?;
            let lse: Vec<f32> = rows.iter().map(|&row| lse[row]).collect();
            for verdict in [reference.check_out(&pick(&out, LATENT))?, reference.check_lse(&lse)?] {
                let judgement = Judgement::of_bound(&verdict);
                joined = Some(match joined {
                    Some(before) => before.and(judgement),
                    None => judgement,
                });
            }
        }
        joined.ok_or_else(|| anyhow::anyhow!("no sequence"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Scalar;

    /// Where bits decide nothing, a head that nobody wrote is found by the reference alone.
    #[test]
    fn every_element_of_a_small_case_is_judged() {
        let device = Device::emulated().unwrap();
        for format in [KvFormat::Bf16, KvFormat::Fp8] {
            let case = AttentionCase { heads: 6, ..AttentionCase::decode(format, 3, 70) };
            let mut problem = Problem::new(&device, case, Arc::new(Inputs::new(&case).unwrap())).unwrap();
            problem.launch(Stream::Emulated).unwrap();
            let elements = problem.outputs().unwrap().iter().map(Output::elements).sum::<usize>();
            let judgement = problem.judge().unwrap();
            assert_eq!((judgement.checked, judgement.failure), (elements, None), "{format:?}");
            for (sequence, head) in [(0, 2), (1, 0), (2, 5)] {
                let mut out = problem.out.to_vec().unwrap();
                out[(sequence * case.heads + head) * LATENT + 7] = bf16::SENTINEL;
                let whole = std::mem::replace(&mut problem.out, device.upload(&out).unwrap());
                assert!(problem.judge().unwrap().failure.is_some(), "{format:?}, {sequence}, {head}");
                problem.out = whole;
            }
        }
    }
}
