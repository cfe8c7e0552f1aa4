//! What the benches of a GPU share: the GPU itself, criterion's figures by replayed graphs, and small shapes where only
//! whether a bench runs is asked.
use std::env;
use std::sync::Arc;
use std::time::Duration;

use criterion::Bencher;
use deepseek_kernels::cudarc::driver::CudaStream;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};

use crate::bench::timing::replay;

/// Whether criterion runs everything once and measures nothing: with `--test`, and under `cargo test`.
pub fn testing() -> bool {
    let given = |name: &str| env::args().any(|argument| argument == name);
    given("--test") || !given("--bench")
}

/// `all`, or `small` where nothing is measured.
pub fn shapes<T>(all: &'static [T], small: &'static [T]) -> &'static [T] {
    if testing() { small } else { all }
}

/// What L2 holds when a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2 {
    /// What the run before left there.
    Warm,
    /// Foreign lines, which need not be written back.
    Cold,
}

/// A GPU on whose own stream runs are timed.
pub struct Gpu {
    pub device: Device,
    stream: Arc<CudaStream>,
    flush: Flush,
}

impl Gpu {
    /// The first GPU; without one the bench says that it is skipped.
    ///
    /// # Panics
    /// If there is none where tests are told that there is one.
    pub fn open(bench: &str) -> Option<Self> {
        let device = match Device::open_gpu(0) {
            Ok(device) => device,
            Err(error) => {
                let must = env::var_os("DEEPSEEK_KERNELS_TEST_DEVICES").is_some_and(|value| value == "gpu");
                assert!(!must, "{bench} is to run on a GPU, but there is none to use: {error}");
                println!("SKIPPED {bench} on a GPU: {error}");
                return None;
            }
        };
        let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("a GPU has a stream") };
        let stream = stream.clone();
        // SAFETY: whatever is timed runs on this one stream, whose order replaces the events.
        unsafe { stream.context().disable_event_tracking() };
        // Several times L2's size.
        let flush = Flush::new(&device, if testing() { 1 << 20 } else { 256 << 20 });
        Some(Self { device, stream, flush })
    }

    pub fn stream(&self) -> Stream<'_> {
        Stream::Cuda(&self.stream)
    }

    /// Lets criterion ask for as many runs as it likes, of which at least a graph is run. A cold one takes what flush and
    /// run take together, less what flushes alone take: too short to be told from their noise, it takes no time.
    pub fn measure(&mut self, b: &mut Bencher<'_>, l2: L2, mut run: impl FnMut(Stream<'_>)) {
        let (stream, flush) = (&self.stream, &mut self.flush);
        let runs = if testing() { 1 } else { 20 };
        let mut seconds = |launches: u64, flushed: bool, run: &mut dyn FnMut(Stream<'_>)| {
            let replays = (launches as usize).div_ceil(runs);
            let times = replay(stream, runs, replays, |_| {
                if flushed {
                    flush.run(stream.into());
                }
                run(stream.into());
                Ok(())
            });
            times.expect("replays of a captured graph").median()
        };
        b.iter_custom(|launches| {
            let mean = match l2 {
                L2::Warm => seconds(launches, false, &mut run),
                L2::Cold => seconds(launches, true, &mut run) - seconds(launches, true, &mut |_| {}),
            };
            Duration::from_secs_f64(mean.max(0.0) * launches as f64)
        });
    }
}

/// A GEMM with one row, which reads all of B and writes next to nothing: the lines it leaves in L2 are clean, and none is
/// written back while a run is timed.
struct Flush {
    gemm: Fp8Gemm<bf16>,
    n: usize,
    a: Buffer<F8E4M3>,
    sfa: Buffer<f32>,
    b: Buffer<F8E4M3>,
    sfb: Buffer<f32>,
    d: Buffer<bf16>,
}

impl Flush {
    const K: usize = 8192;

    fn new(device: &Device, bytes: usize) -> Self {
        let (n, k) = (bytes.div_ceil(Self::K), Self::K);
        let scales = |elements| device.upload(&vec![0.0_f32; elements]).expect("scales");
        Self {
            gemm: Fp8Gemm::plan(device, Fp8GemmSpec { m: 1, n, k, accumulate: false }).expect("plan"),
            n,
            a: device.upload(&vec![F8E4M3::ZERO; k]).expect("a"),
            sfa: scales(4 * k / 128),
            b: device.upload(&vec![F8E4M3::ZERO; n * k]).expect("b"),
            sfb: scales(n.div_ceil(128) * k / 128),
            d: device.upload(&vec![bf16::ZERO; n]).expect("d"),
        }
    }

    fn run(&mut self, stream: Stream<'_>) {
        let (n, k) = (self.n, Self::K);
        let args = Fp8GemmArgs {
            a: Matrix::new(&self.a, 1, k).expect("a"),
            sfa: Scales1x128::<MMajor>::with_pitch(&self.sfa, 1, k, 4).expect("sfa"),
            b: Matrix::new(&self.b, n, k).expect("b"),
            sfb: Scales128x128::new(&self.sfb, n, k).expect("sfb"),
            d: MatrixMut::new(&mut self.d, 1, n).expect("d"),
        };
        self.gemm.run(stream, args).expect("flush");
    }
}
