//! What a capture forbids.

use cudarc::driver::result::DriverError;
use cudarc::driver::result::stream::is_capturing;
use cudarc::driver::{CudaStream, sys};

use super::driver_error;
use crate::error::Result;

pub(super) const NOT_CAPTURED: sys::CUstreamCaptureStatus =
    sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;

/// Of a stream whose context is current.
pub(super) fn capture_status(stream: &CudaStream) -> Result<sys::CUstreamCaptureStatus> {
    // SAFETY: the stream is alive.
    unsafe { is_capturing(stream.cu_stream()) }.map_err(driver_error("asking whether a stream is captured"))
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
