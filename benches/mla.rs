//! MLA decode over the shapes by which such kernels are compared in public: schedule, attention and combine. On a GPU some
//! rows of every result are checked against their f64 reference before it is timed, with warm and with cold
//! L2, once with each cache; elements are FLOPs. Without a GPU that is SKIPPED, and the emulator runs small shapes: what
//! it takes says nothing of a GPU.

use std::time::Duration;

use check::bench::gpu;
use check::bench::gpu::{Gpu, L2};
use check::mla::shapes::{BF16_ROW, FP8_ROW, Lengths, MlaShape, Source, shapes};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use deepseek_kernels::mla::{
    DEFAULT_SPLIT_KEYS, EmptyLse, KvCache, KvFormat, KvPaging, MAX_Q_TOKENS, MlaDecode, MlaDecodeArgs,
    MlaDecodeSpec,
};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Stream, bf16};
use oracles::mla::AttentionClass;
use oracles::mla::{MlaSequence, dequantize_kv_fp8, kv_append_fp8, mla_decode};
use oracles::quant::QuantizeScale;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

const KEY: usize = KvFormat::LATENT + KvFormat::ROPE;
const LATENT: usize = KvFormat::LATENT;
const PAGE: usize = 64;
/// Different keys, which the cache repeats: their values do not matter for time, their memory does. A prime, so that no
/// two pages near each other are alike.
const KEYS: usize = 4099;
/// DeepSeek-V3's.
const SCALE: f32 = 0.135_233_78;
const FORMATS: [(KvFormat, &str, usize); 2] =
    [(KvFormat::Bf16, "bf16", BF16_ROW), (KvFormat::Fp8, "fp8", FP8_ROW)];
/// FlashMLA's data.
const CLASS: AttentionClass = AttentionClass::Normal;

enum Cache {
    Bf16(Buffer<bf16>),
    Fp8(Buffer<u8>),
}

/// One shape with its operands on the device.
struct Problem {
    plan: MlaDecode,
    host_q: Vec<bf16>,
    /// `[KEYS, 576]`, as the kernel is to understand them.
    keys: Vec<bf16>,
    host_lengths: Vec<i32>,
    host_table: Vec<i32>,
    q: Buffer<bf16>,
    cache: Cache,
    table: Buffer<i32>,
    lengths: Buffer<i32>,
    tables: Buffer<u32>,
    partials: Buffer<f32>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
}

/// The first `rows` of a cache that holds the same rows again and again.
fn repeated<T: Copy>(rows_there_are: &[T], width: usize, rows: usize) -> Vec<T> {
    let mut cache = rows_there_are.repeat(rows.div_ceil(KEYS));
    cache.truncate(rows * width);
    cache
}

fn fp8_rows(keys: &[bf16]) -> Vec<u8> {
    let (latent, k_pe): (Vec<_>, Vec<_>) =
        keys.chunks_exact(KEY).map(|key| (&key[..LATENT], &key[LATENT..])).unzip();
    let slots: Vec<i32> = (0..KEYS as i32).collect();
    let mut rows = vec![0; KEYS * KvFormat::Fp8.columns()];
    kv_append_fp8(&latent.concat(), &k_pe.concat(), &slots, QuantizeScale::PowerOfTwo, &mut rows)
        .expect("whole rows");
    rows
}

impl Problem {
    fn new(device: &Device, shape: &MlaShape, format: KvFormat) -> Self {
        let MlaShape { batch, q_tokens, heads, causal, .. } = *shape;
        let lengths: Vec<i32> = shape.lengths().into_iter().map(|length| length as i32).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let pages_per_sequence = longest.div_ceil(PAGE);
        let pages = batch * pages_per_sequence;
        let mut table: Vec<i32> = (0..pages as i32).collect();
        table.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(1));
        let spec = MlaDecodeSpec {
            batch,
            q_tokens,
            heads,
            format,
            paging: KvPaging::Paged { pages, page_size: PAGE, pages_per_sequence },
            softmax_scale: SCALE,
            causal,
            split_keys: DEFAULT_SPLIT_KEYS,
            empty_lse: EmptyLse::NegativeInfinity,
        };
        let split_keys = spec.fastest_split(longest, device.multiprocessors());
        let spec = MlaDecodeSpec { split_keys, ..spec };
        let plan = MlaDecode::plan(device, spec).expect("plan");
        let rows = batch * q_tokens * heads;
        let inputs = CLASS.generate(rows, KEYS, KEYS, 1);
        let (keys, cache) = match format {
            KvFormat::Bf16 => {
                let cache = device.upload(&repeated(&inputs.keys, KEY, pages * PAGE)).expect("cache");
                (inputs.keys, Cache::Bf16(cache))
            }
            KvFormat::Fp8 => {
                let stored = fp8_rows(&inputs.keys);
                let cache = repeated(&stored, format.columns(), pages * PAGE);
                let keys = dequantize_kv_fp8(&stored).expect("whole rows");
                (keys, Cache::Fp8(device.upload(&cache).expect("cache")))
            }
        };
        Self {
            q: device.upload(&inputs.q).expect("q"),
            cache,
            table: device.upload(&table).expect("page table"),
            lengths: device.upload(&lengths).expect("lengths"),
            tables: device.upload(&vec![0; plan.tables()]).expect("tables"),
            partials: device.upload(&vec![0.0; plan.partials()]).expect("partials"),
            out: device.upload(&vec![bf16::NAN; rows * LATENT]).expect("out"),
            lse: device.upload(&vec![f32::NAN; rows]).expect("lse"),
            plan,
            host_q: inputs.q,
            keys,
            host_lengths: lengths,
            host_table: table,
        }
    }

    fn run(&mut self, stream: Stream) {
        let MlaDecodeSpec { batch, q_tokens, heads, format, .. } = *self.plan.spec();
        let KvPaging::Paged { pages, page_size, pages_per_sequence } = self.plan.spec().paging else {
            unreachable!("every plan here is paged")
        };
        let (rows, cache_rows) = (batch * q_tokens * heads, pages * page_size);
        let args = MlaDecodeArgs {
            q: Matrix::new(&self.q, rows, KEY).expect("q"),
            cache: match &self.cache {
                Cache::Bf16(buffer) => KvCache::Bf16(Matrix::new(buffer, cache_rows, KEY).expect("cache")),
                Cache::Fp8(buffer) => {
                    KvCache::Fp8(Matrix::new(buffer, cache_rows, format.columns()).expect("cache"))
                }
            },
            page_table: Some(Matrix::new(&self.table, batch, pages_per_sequence).expect("page table")),
            partials: MatrixMut::new(&mut self.partials, 1, self.plan.partials()).expect("partials"),
            out: MatrixMut::new(&mut self.out, rows, LATENT).expect("out"),
            lse: MatrixMut::new(&mut self.lse, batch * q_tokens, heads).expect("lse"),
        };
        let lengths = Matrix::new(&self.lengths, 1, batch).expect("lengths");
        let tables = MatrixMut::new(&mut self.tables, 1, self.plan.tables()).expect("tables");
        self.plan.run(stream, lengths, tables, args).expect("run");
    }

    /// The first and the last head of the first and the last sequence.
    fn check(&mut self, stream: Stream) {
        self.run(stream);
        let (out, lse) = (self.out.to_vec().expect("out"), self.lse.to_vec().expect("lse"));
        let MlaDecodeSpec { batch, q_tokens, heads, causal, split_keys, .. } = *self.plan.spec();
        let columns = self.host_table.len() / batch;
        for sequence in [0, batch - 1] {
            let table = &self.host_table[sequence * columns..][..columns];
            // The cache, of which row r is key r % KEYS.
            let keys: Vec<usize> = (0..self.host_lengths[sequence] as usize)
                .map(|key| (table[key / PAGE] as usize * PAGE + key % PAGE) % KEYS)
                .collect();
            let keys: Vec<bf16> =
                keys.iter().flat_map(|&key| &self.keys[key * KEY..][..KEY]).copied().collect();
            let rows: Vec<usize> = (0..q_tokens)
                .flat_map(|token| [0, heads - 1].map(|head| (sequence * q_tokens + token) * heads + head))
                .collect();
            let pick = |from: &[bf16], width: usize| -> Vec<bf16> {
                rows.iter().flat_map(|&row| &from[row * width..][..width]).copied().collect()
            };
            let q = pick(&self.host_q, KEY);
            let part =
                MlaSequence { q: &q, keys: &keys, q_tokens, heads: 2, scale: SCALE, causal, split_keys };
            let reference = mla_decode(&part).expect("shapes");
            let lse: Vec<f32> = rows.iter().map(|&row| lse[row]).collect();
            for verdict in [reference.check_out(&pick(&out, LATENT)), reference.check_lse(&lse)] {
                let verdict = verdict.expect("shapes");
                assert!(verdict.accepted(), "sequence {sequence} is wrong before it is timed: {verdict}");
            }
        }
    }
}

fn throughput(shape: &MlaShape, key_bytes: usize) -> Throughput {
    let lengths = shape.lengths();
    Throughput::ElementsAndBytes { elements: shape.flops(&lengths), bytes: shape.bytes(&lengths, key_bytes) }
}

fn kernels(c: &mut Criterion) {
    let Some(mut gpu) = Gpu::open("mla") else { return };
    let shapes = if gpu::testing() { small_shapes() } else { shapes() };
    let (shapes, others): (Vec<_>, Vec<_>) =
        shapes.into_iter().partition(|shape| shape.q_tokens <= MAX_Q_TOKENS);
    println!("SKIPPED {} shapes with more than {MAX_Q_TOKENS} query tokens", others.len());
    for shape in shapes {
        let mut group = c.benchmark_group(format!("mla/{:?}", shape.source));
        // There are about a thousand of them.
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for (format, name, key_bytes) in FORMATS {
            group.throughput(throughput(&shape, key_bytes));
            // Made when the first of its benchmarks runs: a filter of the command line may name none.
            let mut problem = None;
            for (temperature, l2) in [("warm", L2::Warm), ("cold", L2::Cold)] {
                let id = BenchmarkId::new(format!("{name}, {temperature}"), shape.name());
                group.bench_function(id, |b| {
                    let problem = problem.get_or_insert_with(|| checked(&gpu.device, &shape, format));
                    gpu.measure(b, l2, |stream| problem.run(stream));
                });
            }
        }
    }
}

fn checked(device: &Device, shape: &MlaShape, format: KvFormat) -> Problem {
    let mut problem = Problem::new(device, shape, format);
    problem.check(device.stream().expect("stream"));
    println!("{}: {}", shape.name(), problem.plan.choice());
    problem
}

/// A tile of rows with several query tokens and splits, and two tiles that share their keys.
fn small_shapes() -> Vec<MlaShape> {
    let shape = |q_tokens, heads, lengths: &'static [usize]| MlaShape {
        source: Source::FlashMla,
        batch: lengths.len(),
        q_tokens,
        heads,
        lengths: Lengths::List(lengths),
        causal: true,
    };
    vec![shape(2, 16, &[2100, 0, 65]), shape(1, 128, &[70])]
}

fn emulated(c: &mut Criterion) {
    let device = match Device::emulated() {
        Ok(device) => device,
        Err(error) => {
            println!("SKIPPED mla on the emulator: {error}");
            return;
        }
    };
    let mut group = c.benchmark_group("mla/emulated");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(3));
    for shape in small_shapes() {
        for (format, name, key_bytes) in FORMATS {
            group.throughput(throughput(&shape, key_bytes));
            let mut problem = None;
            group.bench_function(BenchmarkId::new(name, shape.name()), |b| {
                let problem = problem.get_or_insert_with(|| checked(&device, &shape, format));
                b.iter(|| problem.run(Stream::Emulated));
            });
        }
    }
}

criterion_group!(benches, kernels, emulated);
criterion_main!(benches);
