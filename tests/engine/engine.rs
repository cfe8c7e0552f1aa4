//! An engine that brings its context and its stream.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deepseek_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use deepseek_kernels::cudarc::driver::{CudaContext, CudaGraph, CudaStream};
use deepseek_kernels::{Device, Stream};

pub const THREAD_LOCAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
pub const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
pub const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// cudarc's events, which order what different streams do to one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    On,
    /// The caller orders. What engines choose that capture graphs.
    Off,
}

/// A wait for the whole context breaks the captures in it, and all tests share one: each waits for its turn, and keeps it
/// until its thread ends.
static TURNS: Mutex<()> = Mutex::new(());
thread_local! {
    static TURN: MutexGuard<'static, ()> = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
}

pub struct Engine {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub device: Device,
}

impl Engine {
    /// None, with a word about it, when there is no GPU.
    pub fn open(tracking: Tracking) -> Option<Self> {
        TURN.with(|_| ());
        check::devices::gpu()?;
        Some(Self::on(CudaContext::new(0).expect("the harness has opened it"), tracking))
    }

    pub fn on(context: Arc<CudaContext>, tracking: Tracking) -> Self {
        if tracking == Tracking::Off {
            // SAFETY: the tests of untracked memory wait, or use one stream.
            unsafe { context.disable_event_tracking() };
        }
        let stream = context.new_stream().expect("stream");
        let device = Device::gpu(&context).expect("device");
        Self { context, stream, device }
    }

    /// The device's own stream.
    pub fn device_stream(&self) -> &Arc<CudaStream> {
        match self.device.stream() {
            Ok(Stream::Cuda(stream)) => stream,
            _ => panic!("a GPU has a stream"),
        }
    }

    pub fn settle(&self) {
        self.context.synchronize().expect("synchronize");
    }

    /// Nothing went wrong behind anyone's back.
    pub fn close(self) {
        self.settle();
        self.context.check_err().expect("cudarc has kept no error");
        self.device.poll_error().expect("no bad data");
    }
}

/// Captures what `body` does to the stream. If it panics the capture ends: other tests use the context.
pub fn capture(stream: &Arc<CudaStream>, mode: CUstreamCaptureMode, body: impl FnOnce()) -> CudaGraph {
    stream.begin_capture(mode).expect("begin");
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    outcome.unwrap_or_else(|panic| resume_unwind(panic));
    graph.expect("the capture is whole").expect("a graph")
}
