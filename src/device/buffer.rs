//! Owned memory on either machine, for tests, tools and first steps. An engine brings its own.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::DeviceRepr;

use crate::device::gpu::{Gpu, Uploaded};
use crate::device::{Backend, Device};
use crate::error::Result;
use crate::tensor::{Slice, SliceMut};

/// A copy of host data where a [`Device`] can use it: device memory of a GPU, host memory for the emulator.
///
/// On a GPU it is freed in the order of [`Device::stream`], which must not be captured then; other streams may be. With
/// cudarc's event tracking off, or while a captured graph uses it, whoever runs kernels on another stream keeps it until they
/// are done, as with any slice of cudarc's.
pub struct Buffer<T>(Memory<T>);

enum Memory<T> {
    Host(Vec<T>),
    /// Of at least one element.
    Cuda {
        slice: Uploaded<T>,
        len: usize,
        gpu: Arc<Gpu>,
    },
}

/// Bytes that lie unused behind every buffer of the emulator: a kernel that leaves one does not land in the next, where
/// the access would pass for a legal one.
const REDZONE_BYTES: usize = 64 << 10;

/// How long it is: what it holds is too much to print, and a GPU's memory is not to be read for it.
impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Memory::Host(data) => write!(f, "Buffer::Host(len {})", data.len()),
            Memory::Cuda { len, .. } => write!(f, "Buffer::Cuda(len {len})"),
        }
    }
}

impl Device {
    /// `len` elements of `T::default()`, which is 0 for every number, as [`Device::upload`] brings them.
    ///
    /// # Errors
    /// As [`Device::upload`].
    pub fn zeros<T: DeviceRepr + Clone + Default>(&self, len: usize) -> Result<Buffer<T>> {
        self.upload(&vec![T::default(); len])
    }

    /// Copies `data` to the device; when it returns, the copy is complete and any stream may use it. It may be called while
    /// a stream is captured, unless that is [`Device::stream`], and does not become part of the graph.
    ///
    /// # Errors
    /// [`Error::Captured`](crate::Error::Captured), driver errors.
    pub fn upload<T: DeviceRepr + Clone>(&self, data: &[T]) -> Result<Buffer<T>> {
        match self.backend() {
            Backend::Cuda(gpu) => {
                let slice = gpu.upload(data)?;
                Ok(Buffer(Memory::Cuda { slice, len: data.len(), gpu: gpu.clone() }))
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
    /// Copies the data back, after everything enqueued before in the GPU's context has finished, on whatever stream.
    ///
    /// # Errors
    /// [`Error::Captured`](crate::Error::Captured) while a stream of the context is captured: CUDA then forbids to wait for
    /// the others, and invalidates a capture that it was not asked about. Driver errors, those of earlier launches included.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        match &self.0 {
            Memory::Host(data) => Ok(data.clone()),
            Memory::Cuda { slice, len, gpu } => gpu.download(slice, *len),
        }
    }

    /// The elements from `offset` on, to be read; none when there are not that many.
    pub fn slice(&self, offset: usize) -> Slice<'_, T> {
        match &self.0 {
            Memory::Host(data) => Slice::Host(data.get(offset..).unwrap_or_default()),
            Memory::Cuda { slice, len, .. } => Slice::Cuda(slice.slice(offset.min(*len)..*len)),
        }
    }

    /// The elements from `offset` on, to be written; none when there are not that many.
    pub fn slice_mut(&mut self, offset: usize) -> SliceMut<'_, T> {
        match &mut self.0 {
            Memory::Host(data) => SliceMut::Host(data.get_mut(offset..).unwrap_or_default()),
            Memory::Cuda { slice, len, .. } => SliceMut::Cuda(slice.slice_mut(offset.min(*len)..*len)),
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
