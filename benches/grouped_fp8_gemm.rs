//! The grouped FP8 GEMM over DeepGEMM's lists of experts and over decoding. On a GPU a sample of every result is checked
//! against its error bound before it is timed; FLOPs count the rows there are, no padding. Without a GPU the
//! kernels are SKIPPED.

use check::bench::gpu::{Gpu, L2};
use check::bench::{acceptance, gpu};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepseek_kernels::gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::quant::{MMajor, Scales1x128};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::Sample;
use oracles::gemm::{GemmClass, GemmInputs};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// (n, k) of an expert's layers, and a small one.
const LAYERS: [(usize, usize); 4] = [(6144, 7168), (7168, 3072), (4096, 4096), (4096, 2048)];
const SMALL_LAYERS: [(usize, usize); 1] = [(256, 256)];
/// Experts, and rows that one has on average: prefill, decoding.
const EXPERTS: [(usize, usize); 6] = [(4, 8192), (8, 4096), (6, 1024), (32, 192), (32, 20), (6, 20)];
const FEW_EXPERTS: [(usize, usize); 2] = [(4, 80), (6, 20)];

/// Experts that share one set of operands: their values do not matter for time, their memory does.
struct Problem {
    rows_of: Vec<usize>,
    expert: GemmInputs,
    gemm: GroupedFp8Gemm,
    a: Buffer<F8E4M3>,
    sfa: Buffer<f32>,
    b: Buffer<F8E4M3>,
    sfb: Buffer<f32>,
    segments: Buffer<i32>,
    d: Buffer<bf16>,
    rows: usize,
    pitch: usize,
}

impl Problem {
    /// Rows of each expert are 0.7 to 1.3 times the average, as DeepGEMM draws them.
    fn new(device: &Device, (experts, average): (usize, usize), (n, k): (usize, usize)) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let rows_of: Vec<usize> =
            (0..experts).map(|_| (average as f64 * rng.random_range(0.7..1.3)) as usize).collect();
        let rows: usize = rows_of.iter().sum();
        let most = rows_of.iter().max().copied().unwrap_or(0);
        let expert = GemmClass::Normal.generate((most, n, k), 1).expect("inputs");
        let pitch = rows.next_multiple_of(4);
        let (mut a, mut sfa, mut segments) = (Vec::new(), vec![0.0; k / 128 * pitch], vec![0]);
        for &own in &rows_of {
            let first = a.len() / k;
            a.extend_from_slice(&expert.a[..own * k]);
            for (g, scales) in expert.sfa.chunks(most).enumerate() {
                sfa[g * pitch + first..][..own].copy_from_slice(&scales[..own]);
            }
            segments.push((first + own) as i32);
        }
        let spec =
            GroupedFp8GemmSpec { experts, n, k, segments: Segments::Ragged { rows }, expected_rows: average };
        Self {
            gemm: GroupedFp8Gemm::plan(device, spec).expect("plan"),
            a: device.upload(&a).expect("a"),
            sfa: device.upload(&sfa).expect("sfa"),
            b: device.upload(&expert.b.repeat(experts)).expect("b"),
            sfb: device.upload(&expert.sfb.repeat(experts)).expect("sfb"),
            segments: device.upload(&segments).expect("segments"),
            d: device.upload(&vec![bf16::NAN; rows * n]).expect("d"),
            rows_of,
            expert,
            rows,
            pitch,
        }
    }

    fn run(&mut self, stream: Stream) {
        let (experts, n, k) = (self.rows_of.len(), self.expert.n, self.expert.k);
        let args = GroupedFp8GemmArgs {
            a: Matrix::new(&self.a, self.rows, k).expect("a"),
            sfa: Scales1x128::<MMajor>::with_pitch(&self.sfa, self.rows, k, self.pitch).expect("sfa"),
            b: Matrix::new(&self.b, experts * n, k).expect("b"),
            sfb: Matrix::new(&self.sfb, experts * n.div_ceil(128), k / 128).expect("sfb"),
            segments: Matrix::new(&self.segments, 1, experts + 1).expect("segments"),
            d: MatrixMut::new(&mut self.d, self.rows, n).expect("d"),
        };
        self.gemm.run(stream, args).expect("run");
    }

    /// The last expert's rows: a wrong segment shows there.
    fn check(&mut self, stream: Stream) {
        self.run(stream);
        let d = self.d.to_vec().expect("download");
        let n = self.expert.n;
        let own = self.rows_of.last().copied().unwrap_or(0);
        let first = self.rows - own;
        let got = |row: usize, column: usize| d[(first + row) * n + column].to_f32();
        let what = format!("{} experts, {} rows, {}", self.rows_of.len(), self.rows, self.gemm.choice());
        acceptance::accept(&what, &self.expert, &Sample::spread(own, n, 16, 64, 1), &got);
    }
}

fn kernels(c: &mut Criterion) {
    let Some(mut gpu) = Gpu::open("grouped_fp8_gemm") else { return };
    for &(n, k) in gpu::shapes(&LAYERS, &SMALL_LAYERS) {
        let mut group = c.benchmark_group(format!("grouped_fp8_gemm/n{n}_k{k}"));
        for &(experts, average) in gpu::shapes(&EXPERTS, &FEW_EXPERTS) {
            let mut problem = Problem::new(&gpu.device, (experts, average), (n, k));
            problem.check(gpu.stream());
            group.throughput(Throughput::Elements(2 * (problem.rows * n * k) as u64));
            group.bench_function(BenchmarkId::new("cold", format!("{experts}x{average}")), |b| {
                gpu.measure(b, L2::Cold, |stream| problem.run(stream));
            });
        }
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
