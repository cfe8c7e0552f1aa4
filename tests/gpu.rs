//! What only a GPU has: streams, contexts, graphs, asynchrony. Without one each test says SKIPPED and proves nothing.

mod harness;
mod mla;

use deepseek_kernels::cudarc::driver::CudaContext;
use deepseek_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use deepseek_kernels::reference::Oracle;
use deepseek_kernels::reference::inputs::{GemmClass, GemmInputs};
use deepseek_kernels::{
    Device, Error, Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, KvCache, MMajor, Matrix, MatrixMut, MlaDecode,
    MlaDecodeArgs, Scales1x128, Scales128x128, Stream, bf16,
};
use harness::{Sentinel, check_gemm, gpu};
use mla::{Bits, Cache, KEY, LATENT, Operands, Step};

const SHAPE: (usize, usize, usize) = (256, 512, 1024);

fn device_or_skip(test: &str) -> Option<Device> {
    let device = gpu();
    if device.is_none() {
        eprintln!("SKIPPED {test}: no GPU");
    }
    device
}

fn inputs(seed: u64) -> GemmInputs {
    GemmClass::X1a.generate(SHAPE, seed).expect("inputs")
}

fn spec() -> Fp8GemmSpec {
    Fp8GemmSpec { m: SHAPE.0, n: SHAPE.1, k: SHAPE.2, accumulate: false }
}

/// Runs on a stream with slices of the caller, as an engine does.
macro_rules! run {
    ($gemm:expr, $stream:expr, $a:expr, $sfa:expr, $b:expr, $sfb:expr, $d:expr) => {{
        let (m, n, k) = SHAPE;
        $gemm.run(
            $stream,
            Fp8GemmArgs {
                a: Matrix::new($a, m, k).expect("a"),
                sfa: Scales1x128::<MMajor>::new($sfa, m, k).expect("sfa"),
                b: Matrix::new($b, n, k).expect("b"),
                sfb: Scales128x128::new($sfb, n, k).expect("sfb"),
                d: MatrixMut::new($d, m, n).expect("d"),
            },
        )
    }};
}

/// A captured graph replays with new data in the same buffers.
#[test]
fn a_graph_replays_with_changed_data() {
    let Some(device) = device_or_skip("a_graph_replays_with_changed_data") else { return };
    let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("a GPU has a stream") };
    let first = inputs(1);
    let (mut a, mut sfa) =
        (stream.clone_htod(&first.a).expect("a"), stream.clone_htod(&first.sfa).expect("sfa"));
    let (b, sfb) = (stream.clone_htod(&first.b).expect("b"), stream.clone_htod(&first.sfb).expect("sfb"));
    let mut d = stream.clone_htod(&vec![bf16::SENTINEL; SHAPE.0 * SHAPE.1]).expect("d");
    let gemm = Fp8Gemm::<bf16>::plan(&device, spec()).expect("plan");
    stream.synchronize().expect("synchronize");

    // SAFETY: one stream only; its order replaces the events, which a capture could not record.
    unsafe { stream.context().disable_event_tracking() };
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("capture");
    run!(gemm, stream, &a, &sfa, &b, &sfb, &mut d).expect("nothing in run forbids capture");
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).expect("capture").expect("a graph");
    for seed in [2, 3] {
        let mut changed = inputs(seed);
        stream.memcpy_htod(&changed.a, &mut a).expect("a");
        stream.memcpy_htod(&changed.sfa, &mut sfa).expect("sfa");
        graph.launch().expect("replay");
        let got = stream.clone_dtoh(&d).expect("d");
        changed.b.clone_from(&first.b);
        changed.sfb.clone_from(&first.sfb);
        check_gemm("replay", &changed, &[Oracle::Exact], None, &got);
    }
    // SAFETY: re-enables what was disabled.
    unsafe { stream.context().enable_event_tracking() };
}

/// Lengths are read by the kernels: a captured decode step follows them.
#[test]
fn attention_in_a_graph_follows_the_lengths() {
    let Some(device) = device_or_skip("attention_in_a_graph_follows_the_lengths") else { return };
    let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("a GPU has a stream") };
    let step = Step { lengths: vec![500, 0, 130], q_tokens: 2, heads: 64, causal: true, ..Step::default() };
    let operands = step.operands();
    let Cache::Bf16(keys) = &operands.cache else { unreachable!("the default format") };
    let plan = MlaDecode::plan(&device, operands.spec).expect("plan");
    let (rows, columns) = (3 * 2 * 64, operands.table.len() / 3);
    let (q, keys) = (stream.clone_htod(&operands.q).expect("q"), stream.clone_htod(keys).expect("keys"));
    let table = stream.clone_htod(&operands.table).expect("table");
    let mut lengths = stream.clone_htod(&operands.lengths).expect("lengths");
    let mut tables = stream.clone_htod(&vec![0_u32; plan.tables()]).expect("tables");
    let mut partials = stream.clone_htod(&vec![f32::NAN; plan.partials()]).expect("partials");
    let mut out = stream.clone_htod(&vec![bf16::SENTINEL; rows * LATENT]).expect("out");
    let mut lse = stream.clone_htod(&vec![f32::NAN; rows]).expect("lse");
    stream.synchronize().expect("synchronize");

    // SAFETY: one stream only; its order replaces the events, which a capture could not record.
    unsafe { stream.context().disable_event_tracking() };
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("capture");
    let args = MlaDecodeArgs {
        q: Matrix::new(&q, rows, KEY).expect("q"),
        cache: KvCache::Bf16(Matrix::new(&keys, keys.len() / KEY, KEY).expect("cache")),
        page_table: Some(Matrix::new(&table, 3, columns).expect("table")),
        partials: MatrixMut::new(&mut partials, 1, plan.partials()).expect("partials"),
        out: MatrixMut::new(&mut out, rows, LATENT).expect("out"),
        lse: MatrixMut::new(&mut lse, 3 * 2, 64).expect("lse"),
    };
    let (gpu_lengths, gpu_tables) =
        (Matrix::new(&lengths, 1, 3), MatrixMut::new(&mut tables, 1, plan.tables()));
    let run = plan.run(stream, gpu_lengths.expect("lengths"), gpu_tables.expect("tables"), args);
    run.expect("nothing in run forbids capture");
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).expect("capture").expect("a graph");
    for changed in [[500, 0, 130], [64, 0, 1], [129, 0, 0], [1, 0, 128]] {
        stream.memcpy_htod(&changed, &mut lengths).expect("lengths");
        graph.launch().expect("replay");
        let bits = Bits {
            out: stream.clone_dtoh(&out).expect("out").into_iter().map(bf16::to_bits).collect(),
            lse: stream.clone_dtoh(&lse).expect("lse").into_iter().map(f32::to_bits).collect(),
        };
        let replayed = Operands { lengths: changed.to_vec(), ..operands.clone() };
        replayed.judge(step.class, &bits).unwrap_or_else(|text| panic!("{changed:?}: {text}"));
    }
    // SAFETY: re-enables what was disabled.
    unsafe { stream.context().enable_event_tracking() };
}

/// Operands may be dropped as soon as `run` returns.
#[test]
fn operands_dropped_after_the_launch() {
    let Some(device) = device_or_skip("operands_dropped_after_the_launch") else { return };
    let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("a GPU has a stream") };
    let gemm = Fp8Gemm::<bf16>::plan(&device, spec()).expect("plan");
    for seed in 0..20 {
        let data = inputs(seed);
        let mut d = stream.clone_htod(&vec![bf16::SENTINEL; SHAPE.0 * SHAPE.1]).expect("d");
        {
            let (a, sfa) =
                (stream.clone_htod(&data.a).expect("a"), stream.clone_htod(&data.sfa).expect("sfa"));
            let (b, sfb) =
                (stream.clone_htod(&data.b).expect("b"), stream.clone_htod(&data.sfb).expect("sfb"));
            run!(gemm, stream, &a, &sfa, &b, &sfb, &mut d).expect("run");
        }
        check_gemm("dropped operands", &data, &[Oracle::Exact], None, &stream.clone_dtoh(&d).expect("d"));
    }
}

/// Two streams at once give the bits that one gives; cudarc's events order what they share.
#[test]
fn two_streams() {
    let Some(device) = device_or_skip("two_streams") else { return };
    let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("a GPU has a stream") };
    let other = stream.fork().expect("a second stream");
    let gemm = Fp8Gemm::<bf16>::plan(&device, spec()).expect("plan");
    let data = inputs(9);
    let (a, sfa) = (stream.clone_htod(&data.a).expect("a"), stream.clone_htod(&data.sfa).expect("sfa"));
    let (b, sfb) = (stream.clone_htod(&data.b).expect("b"), stream.clone_htod(&data.sfb).expect("sfb"));
    let empty = vec![bf16::SENTINEL; SHAPE.0 * SHAPE.1];
    let (mut d0, mut d1) = (stream.clone_htod(&empty).expect("d"), other.clone_htod(&empty).expect("d"));
    for _ in 0..10 {
        run!(gemm, stream, &a, &sfa, &b, &sfb, &mut d0).expect("run");
        run!(gemm, &other, &a, &sfa, &b, &sfb, &mut d1).expect("run");
    }
    check_gemm("stream", &data, &[Oracle::Exact], None, &stream.clone_dtoh(&d0).expect("d"));
    check_gemm("fork", &data, &[Oracle::Exact], None, &other.clone_dtoh(&d1).expect("d"));
}

/// Operands of another context, and host memory, are refused by name.
#[test]
fn operands_of_another_device() {
    let Some(device) = device_or_skip("operands_of_another_device") else { return };
    let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("a GPU has a stream") };
    let foreign = CudaContext::new_non_primary(0, 0).expect("a second context").default_stream();
    let gemm = Fp8Gemm::<bf16>::plan(&device, spec()).expect("plan");
    let data = inputs(4);
    let (sfa, b, sfb) = (
        stream.clone_htod(&data.sfa).expect("sfa"),
        stream.clone_htod(&data.b).expect("b"),
        stream.clone_htod(&data.sfb).expect("sfb"),
    );
    let mut d = stream.clone_htod(&vec![bf16::SENTINEL; SHAPE.0 * SHAPE.1]).expect("d");
    let a = foreign.clone_htod(&data.a).expect("a");
    let error = run!(gemm, stream, &a, &sfa, &b, &sfb, &mut d).expect_err("another context");
    assert_eq!(
        error.to_string(),
        "a belongs to another device: expected the plan's GPU context, got another GPU context"
    );
    let error = run!(gemm, stream, &data.a, &sfa, &b, &sfb, &mut d).expect_err("host memory");
    assert_eq!(error.to_string(), "a belongs to another device: expected a GPU, got host memory");
    let error = run!(gemm, &foreign, &a, &sfa, &b, &sfb, &mut d).expect_err("another stream");
    assert!(matches!(error, Error::WrongDevice { what: "stream", .. }), "{error}");
    assert!(
        stream
            .clone_dtoh(&d)
            .expect("the context lives")
            .iter()
            .all(|x| x.to_bits() == bf16::SENTINEL.to_bits())
    );
}
