//! The FP8 GEMM over the dense list of DeepSeek-V3 layers: `cargo bench`. On a GPU every shape is checked against its error
//! bound before it is timed, with warm and with cold L2. Without a GPU the kernels are SKIPPED, and only what runs on the
//! host is timed: the planner and the references.

use std::hint::black_box;

use check::bench::gpu::{Gpu, L2};
use check::bench::{acceptance, gpu};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GemmChoice, OutputType};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::{Epilogue, Oracle, Output, Sample};
use oracles::gemm::{GemmClass, GemmInputs};

/// (n, k) of the layers, and some that are small.
const LAYERS: [(usize, usize); 7] =
    [(2112, 7168), (576, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)];
const SMALL_LAYERS: [(usize, usize); 2] = [(2112, 256), (576, 512)];
const ROWS: [usize; 4] = [1, 64, 128, 4096];
const FEW_ROWS: [usize; 3] = [1, 64, 200];

/// One shape with its operands on the device.
struct Problem {
    inputs: GemmInputs,
    gemm: Fp8Gemm<bf16>,
    a: Buffer<F8E4M3>,
    sfa: Buffer<f32>,
    sfa_pitch: usize,
    b: Buffer<F8E4M3>,
    sfb: Buffer<f32>,
    d: Buffer<bf16>,
}

impl Problem {
    fn new(device: &Device, (m, n, k): (usize, usize, usize)) -> Self {
        let inputs = GemmClass::Normal.generate((m, n, k), 1).expect("inputs");
        let sfa_pitch = m.next_multiple_of(4);
        let mut sfa = vec![0.0; k / 128 * sfa_pitch];
        for (to, from) in sfa.chunks_mut(sfa_pitch).zip(inputs.sfa.chunks(m)) {
            to[..m].copy_from_slice(from);
        }
        Self {
            gemm: Fp8Gemm::plan(device, Fp8GemmSpec { m, n, k, accumulate: false }).expect("plan"),
            a: device.upload(&inputs.a).expect("a"),
            sfa: device.upload(&sfa).expect("sfa"),
            sfa_pitch,
            b: device.upload(&inputs.b).expect("b"),
            sfb: device.upload(&inputs.sfb).expect("sfb"),
            d: device.upload(&vec![bf16::NAN; m * n]).expect("d"),
            inputs,
        }
    }

    fn run(&mut self, stream: Stream) {
        let GemmInputs { m, n, k, .. } = self.inputs;
        let args = Fp8GemmArgs {
            a: Matrix::new(&self.a, m, k).expect("a"),
            sfa: Scales1x128::<MMajor>::with_pitch(&self.sfa, m, k, self.sfa_pitch).expect("sfa"),
            b: Matrix::new(&self.b, n, k).expect("b"),
            sfb: Scales128x128::new(&self.sfb, n, k).expect("sfb"),
            d: MatrixMut::new(&mut self.d, m, n).expect("d"),
        };
        self.gemm.run(stream, args).expect("run");
    }

    fn check(&mut self, stream: Stream) {
        self.run(stream);
        let d = self.d.to_vec().expect("download");
        let GemmInputs { m, n, .. } = self.inputs;
        let got = |row: usize, column: usize| d[row * n + column].to_f32();
        let what = format!("{m}x{n}x{}, {}", self.inputs.k, self.gemm.choice());
        acceptance::accept(&what, &self.inputs, &Sample::spread(m, n, 32, 64, 1), &got);
    }
}

fn kernels(c: &mut Criterion) {
    let Some(mut gpu) = Gpu::open("fp8_gemm") else { return };
    for &(n, k) in gpu::shapes(&LAYERS, &SMALL_LAYERS) {
        let mut group = c.benchmark_group(format!("fp8_gemm/n{n}_k{k}"));
        for &m in gpu::shapes(&ROWS, &FEW_ROWS) {
            let mut problem = Problem::new(&gpu.device, (m, n, k));
            problem.check(gpu.stream());
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            for (name, l2) in [("warm", L2::Warm), ("cold", L2::Cold)] {
                group.bench_function(BenchmarkId::new(name, m), |b| {
                    gpu.measure(b, l2, |stream| problem.run(stream));
                });
            }
        }
    }
}

fn host(c: &mut Criterion) {
    c.bench_function("planner/4096x7168x2048", |b| {
        let spec = Fp8GemmSpec { m: 4096, n: 7168, k: 2048, accumulate: false };
        b.iter(|| GemmChoice::for_shape(black_box(&spec), OutputType::Bf16, 132));
    });
    let inputs = GemmClass::Normal.generate((64, 64, 1024), 1).expect("inputs");
    let epilogue = Epilogue::store(Output::Bf16);
    let sample = Sample::all(64, 64);
    for oracle in [Oracle::BitModel, Oracle::Bound] {
        c.bench_function(&format!("reference/{oracle:?}/64x64x1024"), |b| {
            let operands = inputs.operands().expect("operands");
            b.iter(|| oracle.check(&operands, &epilogue, &sample, &|_, _| 0.0));
        });
    }
}

criterion_group!(benches, host, kernels);
criterion_main!(benches);
