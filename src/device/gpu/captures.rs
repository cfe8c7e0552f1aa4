//! What a capture forbids, and the order of memory that plans own.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaEvent, CudaStream, sys};

use super::{Gpu, driver_error, enter};
use crate::device::{Backend, Device, Stream};
use crate::error::Result;

pub(super) const NOT_CAPTURED: sys::CUstreamCaptureStatus =
    sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;

pub(super) fn capture_status(stream: &CudaStream) -> Result<sys::CUstreamCaptureStatus> {
    stream.capture_status().map_err(driver_error("asking whether a stream is captured"))
}

/// Answers of calls that reach beyond one stream, such as a wait for the context.
pub(super) fn forbidden_by_capture(DriverError(code): DriverError) -> bool {
    use sys::CUresult as Code;
    matches!(
        code,
        Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            | Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
            | Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
            | Code::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD
    )
}

/// While it lives, the calling thread may load, allocate and free although a stream is captured, by it or by another thread:
/// none of it becomes part of the capture.
pub(super) struct RelaxedCapture(sys::CUstreamCaptureMode);

impl RelaxedCapture {
    pub fn enter() -> Result<Self> {
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        exchange(&mut mode).map_err(driver_error("allowing memory during captures"))?;
        Ok(Self(mode))
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        // It fails only where the first exchange had failed.
        let _ = exchange(&mut self.0);
    }
}

fn exchange(mode: &mut sys::CUstreamCaptureMode) -> std::result::Result<(), DriverError> {
    // SAFETY: the mode is valid for the call, which gives the thread's former one back in it.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(mode) }.result()
}

/// The last run that used memory of the crate's own, on whatever stream it was. With cudarc's tracking off nothing else
/// orders the next run, or the release of the memory, after it. In a capture whoever replays the graph does.
///
/// First field of a struct of such memory: what is freed after it is freed behind the last use.
pub(crate) struct LastUse(Option<Recorded>);

struct Recorded {
    gpu: Arc<Gpu>,
    event: CudaEvent,
    /// A wait for an event that never was is left out.
    recorded: bool,
}

impl fmt::Debug for LastUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.0.as_ref().is_some_and(|last| last.recorded);
        write!(f, "LastUse(recorded: {recorded})")
    }
}

impl LastUse {
    /// The emulator needs none: there a run is over when it returns.
    pub fn new(device: &Device) -> Result<Self> {
        let Backend::Cuda(gpu) = device.backend() else { return Ok(Self(None)) };
        enter(&gpu.context)?;
        let event = gpu.context.new_event(None).map_err(driver_error("creating an event"))?;
        Ok(Self(Some(Recorded { gpu: gpu.clone(), event, recorded: false })))
    }

    /// What is enqueued on `stream` from now on comes after the last use.
    pub fn precede(&self, stream: Stream<'_>) -> Result<()> {
        let (Some(last), Stream::Cuda(stream)) = (&self.0, stream) else { return Ok(()) };
        if !last.recorded || !last.is_ordered_on(stream)? {
            return Ok(());
        }
        stream.wait(&last.event).map_err(driver_error("waiting for the run before"))
    }

    /// The last use is what `stream` has been given until now.
    pub fn record(&mut self, stream: Stream<'_>) -> Result<()> {
        let (Some(last), Stream::Cuda(stream)) = (&mut self.0, stream) else { return Ok(()) };
        if !last.is_ordered_on(stream)? {
            return Ok(());
        }
        last.event.record(stream).map_err(driver_error("recording the run"))?;
        last.recorded = true;
        Ok(())
    }
}

impl Recorded {
    /// A stream of another context is refused by the launches.
    fn is_ordered_on(&self, stream: &Arc<CudaStream>) -> Result<bool> {
        if stream.context().cu_ctx() != self.gpu.context.cu_ctx() {
            return Ok(false);
        }
        enter(stream.context())?;
        Ok(!self.gpu.is_captured(stream)?)
    }
}

impl Drop for LastUse {
    fn drop(&mut self) {
        if let Some(Recorded { gpu, event, recorded: true }) = &self.0 {
            gpu.context.record_err(gpu.stream.wait(event));
        }
    }
}
