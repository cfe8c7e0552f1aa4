//! Time on a GPU: runs are captured in a CUDA graph and replayed between two events, so that nothing of the host counts.

use std::sync::Arc;
use std::time::Duration;

use deepseek_kernels::cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use deepseek_kernels::cudarc::driver::{CudaGraph, CudaStream};
use deepseek_kernels::{
    Buffer, Device, F8E4M3, Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, MMajor, Matrix, MatrixMut, Scales1x128,
    Scales128x128, Stream, bf16,
};

/// What L2 holds when a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2 {
    /// What the run before left there.
    Warm,
    /// Foreign lines, which need not be written back.
    Cold,
}

/// How much is replayed for one figure.
#[derive(Debug, Clone, Copy)]
pub struct Repeats {
    /// Runs in a graph.
    pub runs: u32,
    /// Replays of the graph.
    pub replays: u32,
}

/// A GPU on whose own stream runs are timed.
pub struct Timer {
    stream: Arc<CudaStream>,
    flush: Flush,
}

impl Timer {
    /// Turns event tracking off for the device's context; a device of its own, from [`Device::open_gpu`], has one of its
    /// own. `flush_bytes` are read between cold runs: several times L2's size.
    ///
    /// # Panics
    /// On an emulated device, and where the driver fails.
    pub fn new(device: &Device, flush_bytes: usize) -> Self {
        let Ok(Stream::Cuda(stream)) = device.stream() else { panic!("only a GPU's time means anything") };
        // SAFETY: whatever is timed runs on this one stream, whose order replaces the events.
        unsafe { stream.context().disable_event_tracking() };
        Self { stream: stream.clone(), flush: Flush::new(device, flush_bytes) }
    }

    /// The mean time of a run. A cold one is what flush and run take together, less what flushes alone take: a run too
    /// short to be told from their noise takes no time.
    ///
    /// # Panics
    /// Where the driver fails.
    pub fn mean(&mut self, l2: L2, repeats: Repeats, mut run: impl FnMut(Stream<'_>)) -> Duration {
        let Self { stream, flush } = self;
        let total = match l2 {
            L2::Warm => replayed(stream, repeats, &mut run),
            L2::Cold => {
                let both = replayed(stream, repeats, &mut |stream| {
                    flush.run(stream);
                    run(stream);
                });
                both.saturating_sub(replayed(stream, repeats, &mut |stream| flush.run(stream)))
            }
        };
        total / (repeats.runs * repeats.replays)
    }
}

/// The time of all runs of all replays.
fn replayed(stream: &Arc<CudaStream>, repeats: Repeats, run: &mut dyn FnMut(Stream<'_>)) -> Duration {
    let graph = captured(stream, repeats.runs, run);
    let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("event");
    // The first replay also brings the graph to the GPU.
    graph.launch().expect("replay");
    let start = event();
    (0..repeats.replays).for_each(|_| graph.launch().expect("replay"));
    let end = event();
    Duration::from_secs_f32(start.elapsed_ms(&end).expect("the events' times") / 1e3)
}

fn captured(stream: &Arc<CudaStream>, runs: u32, run: &mut dyn FnMut(Stream<'_>)) -> CudaGraph {
    stream.synchronize().expect("what was enqueued before");
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture");
    (0..runs).for_each(|_| run(stream.into()));
    stream.end_capture(CUgraphInstantiate_flags(0)).expect("the capture").expect("a graph")
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
        let (n, k) = (bytes.div_ceil(Self::K).next_multiple_of(8), Self::K);
        let spec = Fp8GemmSpec { m: 1, n, k, accumulate: false };
        let upload = |elements| device.upload(&vec![0.0_f32; elements]).expect("scales");
        Self {
            n,
            gemm: Fp8Gemm::plan(device, spec).expect("plan"),
            a: device.upload(&vec![F8E4M3::ZERO; k]).expect("a"),
            sfa: upload(4 * k / 128),
            b: device.upload(&vec![F8E4M3::ZERO; n * k]).expect("b"),
            sfb: upload(n.div_ceil(128) * k / 128),
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
