//! Memory of a GPU: what is uploaded, and addresses without cudarc's events.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, sys};

use super::captures::RelaxedCapture;
use super::driver_error;
use crate::error::Result;

/// Memory of [`Gpu::upload`], freed as it was allocated: although a stream is captured. CUDA refuses that otherwise, and
/// the memory would never be freed.
pub(crate) struct Uploaded<T>(pub(super) ManuallyDrop<CudaSlice<T>>);

impl<T> Deref for Uploaded<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.0
    }
}

impl<T> DerefMut for Uploaded<T> {
    fn deref_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.0
    }
}

impl<T> Drop for Uploaded<T> {
    fn drop(&mut self) {
        // Where not even the mode can be had, the context is of no use any more.
        let _relaxed = RelaxedCapture::enter();
        // SAFETY: nothing uses it after this.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// Takes the address out of a view without a wait and without a record.
///
/// A view tells its address only to a stream, which cudarc makes wait for the view's events: illegal in a capture, where
/// they were recorded outside of it. This stream's context object holds an error, with which cudarc answers each of its
/// calls before it asks the driver, and which it stores again; it owns no streams, so that nothing is recorded.
pub(crate) struct Addresses(Mutex<ManuallyDrop<Arc<CudaStream>>>);

impl Addresses {
    pub fn new(context: &CudaContext) -> Result<Self> {
        let (ordinal, device) = (context.ordinal(), context.cu_device());
        // SAFETY: the context is alive and is not destroyed: this owner of it is never dropped.
        let object = unsafe { CudaContext::from_raw_context(ordinal, device, context.cu_ctx()) }
            .map(ManuallyDrop::new)
            .map_err(driver_error("wrapping the context"))?;
        object.record_err::<()>(Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_PERMITTED)));
        Ok(Self(Mutex::new(ManuallyDrop::new(object.default_stream()))))
    }

    pub fn of<T>(&self, view: &impl DevicePtr<T>) -> sys::CUdeviceptr {
        // One at a time: between a call's taking the error and its storing it again, another would reach the driver.
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, _nothing_to_record) = view.device_ptr(&stream);
        address
    }
}
