//! Owned memory on either machine, for tests, tools and first steps. An engine brings its own.

use cudarc::driver::{CudaSlice, DeviceRepr};

use crate::device::{Backend, Device, driver_error};
use crate::error::Result;
use crate::tensor::{Slice, SliceMut};

/// A copy of host data where a [`Device`] can use it: device memory of a GPU, host memory for the emulator.
pub struct Buffer<T>(Memory<T>);

enum Memory<T> {
    Host(Vec<T>),
    Cuda(CudaSlice<T>),
}

/// Bytes that lie unused behind every buffer of the emulator: a kernel that leaves one does not land in the next, where
/// the access would pass for a legal one.
const REDZONE_BYTES: usize = 64 << 10;

impl Device {
    /// Copies `data` to the device, in the order of [`Device::stream`].
    ///
    /// # Errors
    /// Driver errors.
    pub fn upload<T: DeviceRepr + Clone>(&self, data: &[T]) -> Result<Buffer<T>> {
        match self.backend() {
            Backend::Cuda(gpu) => {
                let slice = gpu.stream()?.clone_htod(data).map_err(driver_error("copying to the GPU"))?;
                Ok(Buffer(Memory::Cuda(slice)))
            }
            Backend::Emulated(_) => {
                let mut host = Vec::with_capacity(data.len() + REDZONE_BYTES / size_of::<T>().max(1));
                host.extend_from_slice(data);
                Ok(Buffer(Memory::Host(host)))
            }
        }
    }
}

impl<T: DeviceRepr + Clone> Buffer<T> {
    /// Copies the data back, after everything enqueued before has finished.
    ///
    /// # Errors
    /// Driver errors, those of earlier launches included.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        match &self.0 {
            Memory::Host(data) => Ok(data.clone()),
            Memory::Cuda(slice) => {
                slice.stream().clone_dtoh(slice).map_err(driver_error("copying from the GPU"))
            }
        }
    }

    /// The elements from `offset` on, to be read; none when there are not that many.
    pub fn slice(&self, offset: usize) -> Slice<'_, T> {
        match &self.0 {
            Memory::Host(data) => Slice::Host(data.get(offset..).unwrap_or_default()),
            Memory::Cuda(slice) => Slice::Cuda(slice.slice(offset.min(slice.len())..)),
        }
    }

    /// The elements from `offset` on, to be written; none when there are not that many.
    pub fn slice_mut(&mut self, offset: usize) -> SliceMut<'_, T> {
        match &mut self.0 {
            Memory::Host(data) => SliceMut::Host(data.get_mut(offset..).unwrap_or_default()),
            Memory::Cuda(slice) => {
                let offset = offset.min(slice.len());
                SliceMut::Cuda(slice.slice_mut(offset..))
            }
        }
    }
}

impl<'a, T: DeviceRepr + Clone> From<&'a Buffer<T>> for Slice<'a, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        buffer.slice(0)
    }
}
impl<'a, T: DeviceRepr + Clone> From<&'a mut Buffer<T>> for SliceMut<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.slice_mut(0)
    }
}
