//! Streams, views and the lifetime of operands.

use std::sync::Arc;

use deepseek_kernels::cudarc::driver::{CudaSlice, CudaStream};
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec};
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize1x128Args, QuantizeSpec, Scales1x128, Scales1x128Mut, Scales128x128,
};
use deepseek_kernels::{F8E4M3, Matrix, MatrixMut, Result, bf16};
use oracles::gemm::{Elements, Epilogue, GemmClass, GemmInputs, Oracle, Output, Sample};

use crate::engine::{Engine, Tracking};
use check::memory::Scalar;

pub const SHAPE: (usize, usize, usize) = (100, 64, 256);

pub fn inputs(seed: u64) -> GemmInputs {
    GemmClass::SignedIntegers.generate(SHAPE, seed).expect("inputs")
}

pub fn spec() -> Fp8GemmSpec {
    Fp8GemmSpec::new(SHAPE.0, SHAPE.1, SHAPE.2)
}

/// Operands of a GEMM whose result every oracle knows to the bit.
pub struct Gemm {
    pub a: CudaSlice<F8E4M3>,
    pub sfa: CudaSlice<f32>,
    pub b: CudaSlice<F8E4M3>,
    pub sfb: CudaSlice<f32>,
    pub d: CudaSlice<bf16>,
}

impl Gemm {
    pub fn new(stream: &Arc<CudaStream>, data: &GemmInputs) -> Self {
        Self {
            a: stream.clone_htod(&data.a).expect("a"),
            sfa: stream.clone_htod(&data.sfa).expect("sfa"),
            b: stream.clone_htod(&data.b).expect("b"),
            sfb: stream.clone_htod(&data.sfb).expect("sfb"),
            d: stream.clone_htod(&vec![bf16::SENTINEL; SHAPE.0 * SHAPE.1]).expect("d"),
        }
    }

    pub fn refill(&mut self, stream: &Arc<CudaStream>, data: &GemmInputs) {
        stream.memcpy_htod(&data.a, &mut self.a).expect("a");
        stream.memcpy_htod(&data.sfa, &mut self.sfa).expect("sfa");
        stream.memcpy_htod(&data.b, &mut self.b).expect("b");
        stream.memcpy_htod(&data.sfb, &mut self.sfb).expect("sfb");
    }

    pub fn run(&mut self, gemm: &Fp8Gemm<bf16>, stream: &Arc<CudaStream>) -> Result<()> {
        let (m, n, k) = SHAPE;
        let args = Fp8GemmArgs {
            a: Matrix::new(&self.a, m, k)?,
            sfa: Scales1x128::<MMajor>::new(&self.sfa, m, k)?,
            b: Matrix::new(&self.b, n, k)?,
            sfb: Scales128x128::new(&self.sfb, n, k)?,
            d: MatrixMut::new(&mut self.d, m, n)?,
        };
        gemm.run(stream, args)
    }

    pub fn check(&self, stream: &Arc<CudaStream>, data: &GemmInputs) {
        check("engine", data, &stream.clone_dtoh(&self.d).expect("d"));
    }
}

pub fn check(what: &str, data: &GemmInputs, d: &[bf16]) {
    check_sum(what, data, None, d);
}

/// D is the product, or the product added to what it was before.
fn check_sum(what: &str, data: &GemmInputs, before: Option<&[bf16]>, d: &[bf16]) {
    let (m, n, _) = SHAPE;
    let initial = |row: usize, column: usize| before.map_or(0.0, |d| d[row * n + column].to_f32());
    let initial: &Elements = &initial;
    let epilogue = Epilogue { output: Output::Bf16, initial: before.map(|_| initial) };
    let got = |row: usize, column: usize| d[row * n + column].to_f32();
    let operands = data.operands().expect("operands");
    let verdict = Oracle::Exact.check(&operands, &epilogue, &Sample::all(m, n), &got).expect("integers");
    assert!(verdict.accepted(), "{what}: {verdict}");
}

/// Slices of larger buffers, at offsets and with pitches, between poison.
#[test]
fn views_with_offsets_of_one_arena() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (gemm, stream) = (Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan"), &engine.stream);
    let (m, n, k) = SHAPE;
    let data = inputs(2);
    let (pitch_a, pitch_d) = (k + 48, n + 24);
    let nan = F8E4M3::from_bits(0x7f);
    let mut a = vec![nan; 16 + m * pitch_a];
    for (row, values) in data.a.chunks(k).enumerate() {
        a[16 + row * pitch_a..][..k].copy_from_slice(values);
    }
    let a = stream.clone_htod(&a).expect("a");
    let floats = [vec![f32::NAN; 4], data.sfa.clone(), vec![f32::NAN; 4], data.sfb.clone()].concat();
    let floats = stream.clone_htod(&floats).expect("floats");
    let b = stream.clone_htod(&[vec![nan; 4096 + 16], data.b.clone()].concat()).expect("b");
    let mut d = stream.clone_htod(&vec![bf16::SENTINEL; 8 + m * pitch_d]).expect("d");
    let args = Fp8GemmArgs {
        a: Matrix::with_pitch(a.slice(16..), m, k, pitch_a).expect("a"),
        sfa: Scales1x128::<MMajor>::new(floats.slice(4..4 + data.sfa.len()), m, k).expect("sfa"),
        b: Matrix::new(b.slice(4096 + 16..), n, k).expect("b"),
        sfb: Scales128x128::new(floats.slice(8 + data.sfa.len()..), n, k).expect("sfb"),
        d: MatrixMut::with_pitch(d.slice_mut(8..), m, n, pitch_d).expect("d"),
    };
    gemm.run(stream, args).expect("run");

    let got = stream.clone_dtoh(&d).expect("d");
    let dense: Vec<bf16> = (0..m).flat_map(|row| got[8 + row * pitch_d..][..n].to_vec()).collect();
    check("views", &data, &dense);
    for (i, x) in got.iter().enumerate() {
        let inside = i >= 8 && (i - 8) % pitch_d < n && (i - 8) / pitch_d < m;
        assert!(inside || x.to_bits() == bf16::SENTINEL.to_bits(), "element {i} around d was written");
    }
    drop((gemm, a, b, floats, d));
    engine.close();
}

/// Operands may be dropped as soon as `run` returns, and so may the plan.
#[test]
fn operands_and_plan_dropped_at_once() {
    for tracking in [Tracking::On, Tracking::Off] {
        let Some(engine) = Engine::open(tracking) else { return };
        let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
        let mut results = vec![];
        for seed in 0..3 {
            let data = inputs(seed);
            let mut operands = Gemm::new(&engine.stream, &data);
            operands.run(&gemm, &engine.stream).expect("run");
            let Gemm { a, sfa, b, sfb, d } = operands;
            drop((a, sfa, b, sfb));
            results.push((d, data));
        }
        drop(gemm);
        for (d, data) in results {
            check("dropped", &data, &engine.stream.clone_dtoh(&d).expect("d"));
        }
        engine.close();
    }
}

/// Used on one stream, freed on another at once, and the memory given out again and overwritten with NaN.
#[test]
fn memory_used_elsewhere_freed_and_given_out_again() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (one, two) = (&engine.stream, engine.context.new_stream().expect("stream"));
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    for seed in 0..3 {
        let data = inputs(seed);
        let mut operands = Gemm::new(one, &data);
        operands.run(&gemm, &two).expect("run");
        let Gemm { a, sfa, b, sfb, d } = operands;
        let (codes, floats) = (a.len(), sfa.len());
        drop((a, sfa, b, sfb));
        let again = one.clone_htod(&vec![F8E4M3::from_bits(0x7f); codes]).expect("again");
        let scales = one.clone_htod(&vec![f32::NAN; floats]).expect("again");
        check("crossed", &data, &one.clone_dtoh(&d).expect("d"));
        drop((again, scales));
    }
    drop((gemm, two));
    engine.close();
}

/// What was written on one stream is read late on another, and dropped at once: as much memory taken again and filled with NaN
/// is not what the reader sees.
#[test]
fn a_delayed_reader_sees_what_was_dropped() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (one, two) = (&engine.stream, engine.context.new_stream().expect("stream"));
    let (m, n) = (SHAPE.0, 128);
    let shape = (m, n, SHAPE.2);
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, Fp8GemmSpec::new(m, n, SHAPE.2)).expect("plan");
    let quantize = Quantize1x128::plan(&engine.device, QuantizeSpec::new(m, n)).expect("plan");
    let data = GemmClass::SignedIntegers.generate(shape, 2).expect("inputs");
    let Gemm { a, sfa, b, sfb, .. } = Gemm::new(one, &data);
    let read = |d: &mut CudaSlice<bf16>, drop_early: bool| {
        let args = Fp8GemmArgs {
            a: Matrix::new(&a, m, SHAPE.2).expect("a"),
            sfa: Scales1x128::<MMajor>::new(&sfa, m, SHAPE.2).expect("sfa"),
            b: Matrix::new(&b, n, SHAPE.2).expect("b"),
            sfb: Scales128x128::new(&sfb, n, SHAPE.2).expect("sfb"),
            d: MatrixMut::new(&mut *d, m, n).expect("d"),
        };
        gemm.run(one, args).expect("gemm");
        let mut q = two.clone_htod(&vec![F8E4M3::ZERO; m * n]).expect("q");
        let mut sf = two.clone_htod(&vec![0.0_f32; m]).expect("sf");
        let args = Quantize1x128Args {
            x: Matrix::new(&*d, m, n).expect("x"),
            q: MatrixMut::new(&mut q, m, n).expect("q"),
            sf: Scales1x128Mut::<MMajor>::new(&mut sf, m, n).expect("sf"),
        };
        quantize.run(&two, args).expect("quantise");
        if drop_early {
            drop(std::mem::replace(d, one.clone_htod(&[bf16::NAN]).expect("something else")));
            *d = one.clone_htod(&vec![bf16::NAN; m * n]).expect("as much memory");
        } else {
            engine.settle();
        }
        (two.clone_dtoh(&q).expect("q"), two.clone_dtoh(&sf).expect("sf"))
    };
    let mut d = one.clone_htod(&vec![bf16::SENTINEL; m * n]).expect("d");
    let expected = read(&mut d, false);
    for _ in 0..3 {
        assert!(read(&mut d, true) == expected, "the reader came too late");
        d = one.clone_htod(&vec![bf16::SENTINEL; m * n]).expect("d");
    }
    drop((a, sfa, b, sfb, d, gemm, quantize, two));
    engine.close();
}

/// A run reads what a run on another stream wrote before it.
#[test]
fn a_reader_waits_for_the_writer_of_another_stream() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (one, two) = (&engine.stream, engine.context.new_stream().expect("stream"));
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let add = Fp8Gemm::<bf16>::plan(&engine.device, spec().accumulate(true)).expect("plan");
    let data = inputs(3);
    let before: Vec<bf16> = (0..SHAPE.0 * SHAPE.1).map(|i| bf16::from_f32((i % 61) as f32)).collect();
    for _ in 0..4 {
        let mut operands = Gemm::new(one, &data);
        operands.run(&gemm, one).expect("overwritten next");
        one.memcpy_htod(&before, &mut operands.d).expect("d");
        operands.run(&add, &two).expect("added on another stream");
        let got = one.clone_dtoh(&operands.d).expect("d");
        check_sum("read after write", &data, Some(&before), &got);
    }
    drop((gemm, add, two));
    engine.close();
}

/// A run may overwrite what a run on another stream still reads.
#[test]
fn a_writer_waits_for_the_readers_of_other_streams() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (one, two) = (&engine.stream, engine.context.new_stream().expect("stream"));
    let (m, n) = (SHAPE.0, 128);
    let quantize = Quantize1x128::plan(&engine.device, QuantizeSpec::new(m, n)).expect("plan");
    let shape = (m, n, SHAPE.2);
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, Fp8GemmSpec::new(m, n, SHAPE.2)).expect("plan");
    let data = GemmClass::SignedIntegers.generate(shape, 1).expect("inputs");
    let operands = Gemm::new(&two, &data);
    let mut d = two.clone_htod(&vec![bf16::ONE; m * n]).expect("ones");
    let mut q = one.clone_htod(&vec![F8E4M3::ZERO; m * n]).expect("q");
    let mut sf = one.clone_htod(&vec![0.0_f32; m.next_multiple_of(4)]).expect("sf");
    let args = Quantize1x128Args {
        x: Matrix::new(&d, m, n).expect("x"),
        q: MatrixMut::new(&mut q, m, n).expect("q"),
        sf: Scales1x128Mut::<MMajor>::with_pitch(&mut sf, m, n, m.next_multiple_of(4)).expect("sf"),
    };
    quantize.run(one, args).expect("quantise");
    let args = Fp8GemmArgs {
        a: Matrix::new(&operands.a, m, SHAPE.2).expect("a"),
        sfa: Scales1x128::<MMajor>::new(&operands.sfa, m, SHAPE.2).expect("sfa"),
        b: Matrix::new(&operands.b, n, SHAPE.2).expect("b"),
        sfb: Scales128x128::new(&operands.sfb, n, SHAPE.2).expect("sfb"),
        d: MatrixMut::new(&mut d, m, n).expect("d"),
    };
    gemm.run(&two, args).expect("gemm");
    two.synchronize().expect("the writer first");
    let codes = one.clone_dtoh(&q).expect("q");
    assert!(codes.iter().all(|c| c.to_f32() == 448.0), "the reader saw what was written after it");
    drop((gemm, quantize, operands, d, q, sf, two));
    engine.close();
}

/// Two streams at once give the bits that one gives.
#[test]
fn two_streams_share_their_inputs() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (one, two) = (&engine.stream, engine.stream.fork().expect("a second stream"));
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(9);
    let mut operands = Gemm::new(one, &data);
    let mut other = two.clone_htod(&vec![bf16::SENTINEL; SHAPE.0 * SHAPE.1]).expect("d");
    for _ in 0..10 {
        operands.run(&gemm, one).expect("run");
        std::mem::swap(&mut operands.d, &mut other);
        operands.run(&gemm, &two).expect("run");
        std::mem::swap(&mut operands.d, &mut other);
    }
    check("stream", &data, &one.clone_dtoh(&operands.d).expect("d"));
    check("fork", &data, &two.clone_dtoh(&other).expect("d"));
    drop((gemm, operands, other, two));
    engine.close();
}
