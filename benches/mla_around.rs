//! The steps around MLA's attention with DeepSeek-V3's 128 heads, on a GPU: rotate, append, absorb, merge. All but the
//! absorbed projections of many tokens are bound by memory: their throughput is in bytes that must be read or written
//! once. Results are judged by the tests, and here only for being there. Without a GPU nothing is timed (SKIPPED), and
//! the emulator runs every step once.

use check::bench::gpu;
use check::bench::gpu::{Gpu, L2};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepseek_kernels::mla::{
    AbsorbOutputArgs, AbsorbQueryArgs, AttentionState, AttentionStateMut, Heads, HeadsMut, KvAppend,
    KvAppendArgs, KvAppendSpec, KvCacheMut, KvFormat, MergeStates, MergeStatesSpec, MlaAbsorb, MlaAbsorbSpec,
    Rope, RopeArgs, RopeSpec, RopeTable, YarnRope,
};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Stream, bf16};

const TOKENS: [usize; 4] = [1, 16, 128, 4096];
const FEW_TOKENS: [usize; 2] = [1, 5];
const HEADS: usize = 128;
const FEW_HEADS: usize = 4;
const LATENT: usize = KvFormat::LATENT;
const ROPE: usize = KvFormat::ROPE;
const KEY: usize = LATENT + ROPE;
/// Of a head: what is absorbed, and what it gives.
const NOPE: usize = 128;
const VALUE: usize = 128;
const QUERY: usize = NOPE + ROPE;
const POSITIONS: usize = 8192;

/// The steps of one layer, and their operands.
struct Around {
    tokens: usize,
    heads: usize,
    rope: Rope,
    append: [KvAppend; 2],
    absorb: MlaAbsorb,
    merge: MergeStates<bf16>,
    /// `[tokens, heads * 192]`.
    q: Buffer<bf16>,
    /// `[tokens * heads, 576]`: absorbed and rotated.
    latent_q: Buffer<bf16>,
    /// `[tokens, 576]`: a new token's latent and key.
    kv: Buffer<bf16>,
    w: Buffer<bf16>,
    /// Two parts and their sum, `[tokens * heads, 512]`.
    latent: [Buffer<bf16>; 3],
    lse: [Buffer<f32>; 3],
    out: Buffer<bf16>,
    positions: Buffer<i32>,
    slots: Buffer<i32>,
    angles: Buffer<f32>,
    bf16_cache: Buffer<bf16>,
    fp8_cache: Buffer<u8>,
}

/// One step: its name, the bytes that it must move, and how to run it.
type Step = (&'static str, fn(usize, usize) -> usize, fn(&mut Around, Stream));

const STEPS: [Step; 6] = [
    ("rotate", |tokens, heads| 4 * tokens * heads * ROPE, Around::rotate),
    ("append BF16", |tokens, _| 4 * tokens * KEY, Around::append_bf16),
    ("append FP8", |tokens, _| tokens * (2 * KEY + KvFormat::Fp8.columns()), Around::append_fp8),
    (
        "absorb query",
        |tokens, heads| 2 * heads * (NOPE * LATENT + tokens * (NOPE + LATENT)),
        Around::absorb_query,
    ),
    (
        "absorb output",
        |tokens, heads| 2 * heads * (VALUE * LATENT + tokens * (VALUE + LATENT)),
        Around::absorb_output,
    ),
    ("merge", |tokens, heads| tokens * heads * 3 * (2 * LATENT + 4), Around::merge),
];

impl Around {
    fn new(device: &Device, tokens: usize, heads: usize) -> Self {
        let ones = |elements| device.upload(&vec![bf16::ONE; elements]).expect("a buffer");
        let unwritten = |elements| device.upload(&vec![bf16::NAN; elements]).expect("a buffer");
        let logarithms = || device.upload(&vec![0.5_f32; tokens * heads]).expect("lse");
        let rope = RopeTable::yarn(YarnRope::DEEPSEEK_V3).expect("frequencies");
        let append =
            |format| KvAppend::plan(device, KvAppendSpec::new(tokens, tokens, format)).expect("plan");
        let spec = MergeStatesSpec { tokens, heads, infinity_is_empty: false };
        let scattered =
            |below: usize| (0..tokens).map(|token| (token * 37 % below) as i32).collect::<Vec<_>>();
        Self {
            tokens,
            heads,
            rope: Rope::plan(device, RopeSpec { tokens, heads, positions: POSITIONS }).expect("plan"),
            append: [append(KvFormat::Bf16), append(KvFormat::Fp8)],
            absorb: MlaAbsorb::plan(device, MlaAbsorbSpec { tokens, heads }).expect("plan"),
            merge: MergeStates::plan(device, spec).expect("plan"),
            q: ones(tokens * heads * QUERY),
            latent_q: unwritten(tokens * heads * KEY),
            kv: ones(tokens * KEY),
            w: ones(heads * (NOPE + VALUE) * LATENT),
            latent: [
                ones(tokens * heads * LATENT),
                ones(tokens * heads * LATENT),
                unwritten(tokens * heads * LATENT),
            ],
            lse: [logarithms(), logarithms(), logarithms()],
            out: unwritten(tokens * heads * VALUE),
            positions: device.upload(&scattered(POSITIONS)).expect("positions"),
            // 37 has no factor in common with the numbers of tokens: every slot once.
            slots: device.upload(&scattered(tokens)).expect("slots"),
            angles: device.upload(&rope.cos_sin(POSITIONS).expect("angles")).expect("angles"),
            bf16_cache: unwritten(tokens * KEY),
            fp8_cache: device.upload(&vec![0xff; tokens * KvFormat::Fp8.columns()]).expect("cache"),
        }
    }

    fn rotate(&mut self, stream: Stream) {
        let Self { tokens, heads, .. } = *self;
        let out = self.latent_q.slice_mut(LATENT);
        let args = RopeArgs {
            x: Heads::new(self.q.slice(NOPE), tokens, heads, heads * QUERY, QUERY).expect("x"),
            positions: Matrix::new(&self.positions, 1, tokens).expect("positions"),
            table: Matrix::new(&self.angles, POSITIONS, ROPE).expect("table"),
            out: HeadsMut::new(out, tokens, heads, heads * KEY, KEY).expect("out"),
        };
        self.rope.run(stream, args).expect("rotate");
    }

    fn append_bf16(&mut self, stream: Stream) {
        let cache = MatrixMut::new(&mut self.bf16_cache, self.tokens, KEY).expect("cache");
        let args = append(&self.kv, &self.slots, self.tokens, KvCacheMut::Bf16(cache));
        self.append[0].run(stream, args).expect("append");
    }

    fn append_fp8(&mut self, stream: Stream) {
        let columns = KvFormat::Fp8.columns();
        let cache = MatrixMut::new(&mut self.fp8_cache, self.tokens, columns).expect("cache");
        let args = append(&self.kv, &self.slots, self.tokens, KvCacheMut::Fp8(cache));
        self.append[1].run(stream, args).expect("append");
    }

    fn absorb_query(&mut self, stream: Stream) {
        let Self { tokens, heads, .. } = *self;
        let args = AbsorbQueryArgs {
            q: Matrix::new(&self.q, tokens, heads * QUERY).expect("q"),
            w: Matrix::new(&self.w, heads * (NOPE + VALUE), LATENT).expect("w"),
            q_latent: MatrixMut::new(&mut self.latent_q, tokens * heads, KEY).expect("q_latent"),
        };
        self.absorb.run_query(stream, args).expect("absorb");
    }

    fn absorb_output(&mut self, stream: Stream) {
        let Self { tokens, heads, .. } = *self;
        let args = AbsorbOutputArgs {
            latent: Matrix::new(&self.latent[0], tokens * heads, LATENT).expect("latent"),
            w: Matrix::new(&self.w, heads * (NOPE + VALUE), LATENT).expect("w"),
            out: MatrixMut::new(&mut self.out, tokens, heads * VALUE).expect("out"),
        };
        self.absorb.run_output(stream, args).expect("absorb");
    }

    fn merge(&mut self, stream: Stream) {
        let Self { tokens, heads, .. } = *self;
        let ([a, b, out], [lse_a, lse_b, lse_out]) = (&mut self.latent, &mut self.lse);
        let part = |o, lse| AttentionState {
            o: Matrix::new(o, tokens * heads, LATENT).expect("o"),
            lse: Matrix::new(lse, tokens, heads).expect("lse"),
        };
        let merged = AttentionStateMut {
            o: MatrixMut::new(out, tokens * heads, LATENT).expect("o"),
            lse: MatrixMut::new(lse_out, tokens, heads).expect("lse"),
        };
        self.merge.run(stream, [part(&*a, &*lse_a), part(&*b, &*lse_b)], merged).expect("merge");
    }

    /// Fails unless every step has written all of its result.
    fn check(&self) {
        let finite = |buffer: &Buffer<bf16>| buffer.to_vec().expect("a result").iter().all(|x| x.is_finite());
        let results = [&self.latent_q, &self.latent[2], &self.out, &self.bf16_cache];
        assert!(results.into_iter().all(finite), "a step left something unwritten");
        let rows = self.fp8_cache.to_vec().expect("cache");
        assert!(rows.iter().all(|&byte| byte != 0xff), "the append left a row unwritten");
    }
}

fn append<'a>(
    kv: &'a Buffer<bf16>,
    slots: &'a Buffer<i32>,
    tokens: usize,
    cache: KvCacheMut<'a>,
) -> KvAppendArgs<'a> {
    KvAppendArgs {
        latent: Matrix::with_pitch(kv, tokens, LATENT, KEY).expect("latent"),
        k_pe: Matrix::with_pitch(kv.slice(LATENT), tokens, ROPE, KEY).expect("k_pe"),
        slots: Matrix::new(slots, 1, tokens).expect("slots"),
        cache,
    }
}

fn kernels(c: &mut Criterion) {
    let Some(mut gpu) = Gpu::open("mla_around") else { return emulated() };
    let heads = if gpu::testing() { FEW_HEADS } else { HEADS };
    let mut group = c.benchmark_group("mla, around attention, cold");
    for &tokens in gpu::shapes(&TOKENS, &FEW_TOKENS) {
        let mut around = Around::new(&gpu.device, tokens, heads);
        for (name, bytes, run) in STEPS {
            run(&mut around, gpu.stream());
            group.throughput(Throughput::Bytes(bytes(tokens, heads) as u64));
            group.bench_function(BenchmarkId::new(name, tokens), |b| {
                gpu.measure(b, L2::Cold, |stream| run(&mut around, stream));
            });
        }
        around.check();
    }
    group.finish();
}

/// Every step once, so that what a GPU will time is known to run.
fn emulated() {
    let device = Device::emulated().expect("the emulator");
    let mut around = Around::new(&device, 3, 2);
    for (_, _, run) in STEPS {
        run(&mut around, Stream::Emulated);
    }
    around.check();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
