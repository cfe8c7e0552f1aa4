//! What the benches of a GPU share: the GPU itself, and criterion's figures by replayed graphs.
use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use criterion::Bencher;
use deepseek_kernels::cudarc::driver::CudaStream;
use deepseek_kernels::{Device, Stream};

use crate::bench::timing::{replay, untracked};
use crate::case::{Case, Prepared};
use crate::gemm::timed_gemm;
use crate::memory::{Arena, Memory};

/// Whether criterion runs everything once and measures nothing: with `--test`, and under `cargo test`.
pub fn testing() -> bool {
    let given = |name: &str| env::args().any(|argument| argument == name);
    given("--test") || !given("--bench")
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
    flush: Box<dyn Prepared>,
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
        untracked(stream.context());
        // Several times L2's size.
        let flush = flush(&device, if testing() { 1 << 20 } else { 256 << 20 }).expect("a flush of L2");
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
                    flush.launch(stream.into())?;
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
fn flush(device: &Device, bytes: usize) -> Result<Box<dyn Prepared>> {
    const K: usize = 8192;
    timed_gemm((1, bytes.div_ceil(K), K)).draw()?.prepare(&mut Arena::new(device, Memory::Plain))
}
