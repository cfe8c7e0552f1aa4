//! Decode steps for tests: sequences in a paged or contiguous cache with poison around them, run and judged.
use deepseek_kernels::mla::{
    EmptyLse, KvCache, KvFormat, KvPaging, MLA_INSTANCES, MlaDecode, MlaDecodeArgs, MlaDecodeSpec,
    MlaInstance,
};
use deepseek_kernels::{Device, Error, bf16};
use oracles::codec::encode_e4m3;
use oracles::mla::AttentionClass;
use oracles::mla::{FlashMlaBar, MlaBounded, MlaSequence, dequantize_kv_fp8, gather_pages, mla_decode};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::guarded::{Guarded, Placement};

pub const KEY: usize = 576;
pub const LATENT: usize = 512;
/// DeepSeek-V3's.
pub const SCALE: f32 = 0.135_233_78;
/// What FlashMLA's tests fill the end of a page table with.
pub const STALE_PAGE: i32 = 2_147_480_000;
const NAN: bf16 = bf16::from_bits(0x7fc1);

/// Sequences of one decode step.
#[derive(Clone, Debug)]
pub struct Step {
    pub class: AttentionClass,
    /// Keys of each sequence.
    pub lengths: Vec<i32>,
    pub q_tokens: usize,
    pub heads: usize,
    pub format: KvFormat,
    /// None: contiguous.
    pub page_size: Option<usize>,
    pub split_keys: usize,
    pub causal: bool,
    pub empty_lse: EmptyLse,
    pub instance: Option<MlaInstance>,
    pub seed: u64,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            class: AttentionClass::Normal,
            lengths: vec![100],
            q_tokens: 1,
            heads: 16,
            format: KvFormat::Bf16,
            page_size: Some(64),
            split_keys: 128,
            causal: false,
            empty_lse: EmptyLse::NegativeInfinity,
            instance: None,
            seed: 1,
        }
    }
}

/// A step's operands. Whatever is not a key of a sequence is NaN.
#[derive(Clone)]
pub struct Operands {
    pub spec: MlaDecodeSpec,
    pub lengths: Vec<i32>,
    /// `[batch, pages_per_sequence]`; stale past the end of a sequence.
    pub table: Vec<i32>,
    /// `[rows, 576]`.
    pub q: Vec<bf16>,
    pub cache: Cache,
}

#[derive(Clone, Debug)]
pub enum Cache {
    Bf16(Vec<bf16>),
    Fp8(Vec<u8>),
}

/// Bits of a result, so that equality means equality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    pub out: Vec<u16>,
    pub lse: Vec<u32>,
}

impl Bits {
    pub fn out(&self) -> Vec<bf16> {
        self.out.iter().map(|&bits| bf16::from_bits(bits)).collect()
    }

    pub fn lse(&self) -> Vec<f32> {
        self.lse.iter().map(|&bits| f32::from_bits(bits)).collect()
    }
}

/// A key in the 656-byte format, with a power-of-two scale per 128.
pub fn fp8_row(key: &[bf16]) -> Vec<u8> {
    let (latent, rope) = key.split_at(LATENT);
    let scale = |block: &[bf16]| {
        let amax = block.iter().map(|x| x.to_f32().abs()).fold(1e-4, f32::max);
        (amax / 448.0).log2().ceil().exp2()
    };
    let scales: Vec<f32> = latent.chunks(128).map(scale).collect();
    let codes = latent.iter().enumerate().map(|(i, x)| encode_e4m3(x.to_f32() / scales[i / 128]));
    let mut row: Vec<u8> = codes.collect();
    row.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
    row.extend(rope.iter().flat_map(|x| x.to_bits().to_le_bytes()));
    row
}

impl Step {
    fn rows(&self) -> usize {
        self.q_tokens * self.heads
    }

    pub fn operands(&self) -> Operands {
        let batch = self.lengths.len();
        let longest = self.lengths.iter().copied().max().unwrap_or(0).max(1) as usize;
        let page_size = self.page_size.unwrap_or(longest + 5); // the end of a contiguous cache is no multiple of 64
        let per_sequence = if self.page_size.is_some() { longest.div_ceil(page_size) + 1 } else { 1 };
        let pages = if self.page_size.is_some() { batch * per_sequence + 3 } else { batch };
        let mut order: Vec<i32> = (0..pages as i32).collect();
        if self.page_size.is_some() {
            order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(self.seed));
        }
        let mut table = vec![STALE_PAGE; batch * per_sequence];
        let mut keys = vec![NAN; pages * page_size * KEY];
        let mut q = vec![];
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let length = length.max(0) as usize;
            let seen = if self.causal { length.saturating_sub(self.q_tokens - 1) } else { length };
            let inputs = self.class.generate(self.rows(), length, seen, self.seed + sequence as u64);
            q.extend(inputs.q);
            let entries = &mut table[sequence * per_sequence..][..length.div_ceil(page_size)];
            entries.copy_from_slice(&order[sequence * per_sequence..][..entries.len()]);
            for (index, key) in inputs.keys.chunks(KEY).enumerate() {
                let row = entries[index / page_size] as usize * page_size + index % page_size;
                keys[row * KEY..][..KEY].copy_from_slice(key);
            }
        }
        let paging = match self.page_size {
            Some(page_size) => KvPaging::Paged { pages, page_size, pages_per_sequence: per_sequence },
            None => KvPaging::Contiguous { capacity: page_size },
        };
        let cache = match self.format {
            KvFormat::Bf16 => Cache::Bf16(keys),
            KvFormat::Fp8 => Cache::Fp8(keys.chunks(KEY).flat_map(poisoned_fp8_row).collect()),
        };
        let spec = MlaDecodeSpec {
            batch,
            q_tokens: self.q_tokens,
            heads: self.heads,
            format: self.format,
            paging,
            softmax_scale: SCALE,
            causal: self.causal,
            split_keys: self.split_keys,
            empty_lse: self.empty_lse,
        };
        Operands { spec, lengths: self.lengths.clone(), table, q, cache }
    }

    /// Runs the step and judges every element; returns the bits.
    pub fn check(&self, device: &Device) -> Bits {
        let operands = self.operands();
        let bits = operands.run(device, self.instance).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let judged = operands.judge(self.class, &bits);
        judged.unwrap_or_else(|text| panic!("{} {self:?}: {text}", device.name()));
        bits
    }
}

/// An unused row is NaN in every format: codes, scales and rope.
fn poisoned_fp8_row(key: &[bf16]) -> Vec<u8> {
    if key.iter().any(|x| x.is_nan()) { vec![0xff; KvFormat::Fp8.columns()] } else { fp8_row(key) }
}

/// Every instance that can read the format.
pub fn instances(format: KvFormat) -> impl Iterator<Item = MlaInstance> {
    MLA_INSTANCES.iter().copied().filter(move |i| i.fp8_cache == (format == KvFormat::Fp8))
}

impl Operands {
    /// Launches on the device, everything surrounded by poison.
    pub fn run(&self, device: &Device, instance: Option<MlaInstance>) -> Result<Bits, Error> {
        let plan = match instance {
            Some(instance) => MlaDecode::plan_instance(device, self.spec, instance)?,
            None => MlaDecode::plan(device, self.spec)?,
        };
        let spec = &self.spec;
        let (batch, tokens) = (spec.batch, spec.batch * spec.q_tokens);
        let rows = tokens * spec.heads;
        let lengths =
            Guarded::new(device, &self.lengths, 1, batch, Placement { offset: 3, pitch: batch }, -7);
        let placed = Placement { offset: 8, pitch: KEY + 8 };
        let q = Guarded::new(device, &self.q, rows, KEY, placed, NAN);
        let mut out =
            Guarded::unwritten(device, rows, LATENT, Placement { offset: 8, pitch: LATENT + 8 }, NAN);
        let mut lse = Guarded::unwritten(device, tokens, spec.heads, Placement::dense(spec.heads), f32::NAN);
        let dense = |columns| Placement { offset: 4, pitch: columns };
        let mut tables = Guarded::unwritten(device, 1, plan.tables(), dense(plan.tables()), 0xdead_beef);
        let mut partials = Guarded::unwritten(device, 1, plan.partials(), dense(plan.partials()), f32::NAN);
        let columns = match spec.paging {
            KvPaging::Paged { pages_per_sequence, .. } => pages_per_sequence,
            KvPaging::Contiguous { .. } => 1,
        };
        let table = Guarded::new(
            device,
            &self.table,
            batch,
            columns,
            Placement { offset: 1, pitch: columns + 2 },
            -1,
        );
        let paged = matches!(spec.paging, KvPaging::Paged { .. });
        let width = spec.format.columns();
        let bf16_cache;
        let fp8_cache;
        let cache = match &self.cache {
            Cache::Bf16(keys) => {
                let placed = Placement { offset: 8, pitch: width + 16 };
                bf16_cache = Guarded::new(device, keys, keys.len() / width, width, placed, NAN);
                KvCache::Bf16(bf16_cache.matrix())
            }
            Cache::Fp8(rows) => {
                let placed = Placement { offset: 16, pitch: width + 16 };
                fp8_cache = Guarded::new(device, rows, rows.len() / width, width, placed, 0xff);
                KvCache::Fp8(fp8_cache.matrix())
            }
        };
        let args = MlaDecodeArgs {
            q: q.matrix(),
            cache,
            page_table: paged.then(|| table.matrix()),
            partials: partials.matrix_mut(),
            out: out.matrix_mut(),
            lse: lse.matrix_mut(),
        };
        plan.run(device.stream()?, lengths.matrix(), tables.matrix_mut(), args)?;
        tables.into_checked(|x| x);
        partials.into_checked(f32::to_bits);
        Ok(Bits { out: bits16(out.into_checked(bf16::to_bits)), lse: bits32(lse.into_checked(f32::to_bits)) })
    }

    /// Queries and, in order, keys of a sequence, as the kernel is to understand them.
    pub fn sequence(&self, index: usize) -> (Vec<bf16>, Vec<bf16>) {
        let rows = self.spec.q_tokens * self.spec.heads;
        let q = self.q[index * rows * KEY..][..rows * KEY].to_vec();
        let (page_size, table) = match self.spec.paging {
            KvPaging::Paged { page_size, pages_per_sequence, .. } => {
                (page_size, self.table[index * pages_per_sequence..][..pages_per_sequence].to_vec())
            }
            KvPaging::Contiguous { capacity } => (capacity, vec![index as i32]),
        };
        let width = self.spec.format.columns();
        let keys = match &self.cache {
            Cache::Bf16(keys) => gather_pages(keys, width, page_size, &table, self.lengths[index]),
            Cache::Fp8(rows) => {
                let rows = gather_pages(rows, width, page_size, &table, self.lengths[index]);
                dequantize_kv_fp8(&rows).expect("whole rows")
            }
        };
        (q, keys)
    }

    pub fn reference(&self, index: usize) -> MlaBounded {
        let (q, keys) = self.sequence(index);
        let MlaDecodeSpec { q_tokens, heads, softmax_scale, causal, split_keys, .. } = self.spec;
        let problem =
            MlaSequence { q: &q, keys: &keys, q_tokens, heads, scale: softmax_scale, causal, split_keys };
        mla_decode(&problem).expect("shapes")
    }

    /// The first and the last sequence, and of their heads the first, the middle one and the last.
    pub fn sampled(self, bits: &Bits) -> (Self, Bits) {
        let MlaDecodeSpec { batch, q_tokens, heads, .. } = self.spec;
        let few = |count: usize, indices: &[usize]| -> Vec<usize> {
            let mut indices: Vec<usize> = indices.iter().copied().filter(|&i| i < count).collect();
            indices.dedup();
            indices
        };
        let sequences = few(batch, &[0, batch.saturating_sub(1)]);
        let kept = few(heads, &[0, heads / 2, heads.saturating_sub(1)]);
        let tokens = sequences.iter().flat_map(|&s| (0..q_tokens).map(move |token| s * q_tokens + token));
        let rows: Vec<usize> =
            tokens.flat_map(|token| kept.iter().map(move |head| token * heads + head)).collect();
        let columns = self.table.len() / batch.max(1);
        let part = Self {
            spec: MlaDecodeSpec { batch: sequences.len(), heads: kept.len(), ..self.spec },
            lengths: sequences.iter().map(|&s| self.lengths[s]).collect(),
            table: sequences.iter().flat_map(|&s| &self.table[s * columns..][..columns]).copied().collect(),
            q: rows.iter().flat_map(|&row| &self.q[row * KEY..][..KEY]).copied().collect(),
            cache: self.cache,
        };
        let out = rows.iter().flat_map(|&row| &bits.out[row * LATENT..][..LATENT]).copied().collect();
        (part, Bits { out, lse: rows.iter().map(|&row| bits.lse[row]).collect() })
    }

    /// Every element within its bound; exact where the class is; FlashMLA's own bar on its own kind of data.
    pub fn judge(&self, class: AttentionClass, bits: &Bits) -> Result<(), String> {
        let (out, lse) = (bits.out(), bits.lse());
        let (rows, heads) = (self.spec.q_tokens * self.spec.heads, self.spec.heads);
        for (index, &length) in self.lengths.iter().enumerate() {
            let out = &out[index * rows * LATENT..][..rows * LATENT];
            let mut lse = lse[index * rows..][..rows].to_vec();
            if self.spec.empty_lse == EmptyLse::PositiveInfinity {
                lse.iter_mut().filter(|x| **x == f32::INFINITY).for_each(|x| *x = f32::NEG_INFINITY);
            }
            let reference = self.reference(index);
            let verdict = reference.check_out(out).expect("shape");
            if !verdict.accepted() {
                return Err(format!("sequence {index} of {length} keys, out: {verdict}"));
            }
            let verdict = reference.check_lse(&lse).expect("shape");
            if !verdict.accepted() {
                return Err(format!("sequence {index} of {length} keys, lse: {verdict}"));
            }
            if class == AttentionClass::Normal {
                let out: Vec<f32> = out.iter().map(|x| x.to_f32()).collect();
                let bars =
                    [(FlashMlaBar::OUT, &reference.out, &out), (FlashMlaBar::LSE, &reference.lse, &lse)];
                for (bar, expected, got) in bars {
                    let verdict = bar.check(expected, got).expect("shape");
                    if !verdict.accepted() {
                        return Err(format!("sequence {index} of {length} keys, FlashMLA's bar: {verdict}"));
                    }
                }
            }
            for row in 0..rows {
                let hidden = if self.spec.causal { self.spec.q_tokens - 1 - row / heads } else { 0 };
                if !class.is_exact((length.max(0) as usize).saturating_sub(hidden)) {
                    continue;
                }
                for column in 0..LATENT {
                    let (got, at) = (out[row * LATENT + column], row * LATENT + column);
                    let exact = bf16::from_f64(reference.out[at]);
                    if got.to_bits() != exact.to_bits() {
                        return Err(format!(
                            "sequence {index}, out[{row}, {column}]: expected {exact}, got {got}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

fn bits16(values: Vec<bf16>) -> Vec<u16> {
    values.into_iter().map(bf16::to_bits).collect()
}

fn bits32(values: Vec<f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// Random lengths up to `most`, some of them 0.
pub fn varied_lengths(batch: usize, most: usize, seed: u64) -> Vec<i32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..batch).map(|_| if rng.random_bool(0.3) { 0 } else { rng.random_range(1..=most as i32) }).collect()
}
