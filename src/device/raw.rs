//! What an engine has that does not come from this crate's cudarc: memory and streams, by address.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use super::gpu::driver_error;
use super::{Backend, Device, Stream};
use crate::error::{Error, Result};

/// Memory that a kernel reads, by address: of a GPU for a GPU, of the host for the emulator. A [`Slice`](crate::Slice) for
/// every operation.
///
/// Nothing is known of it but what its maker says. Shapes, pitches and alignment are checked as for any slice; that it is
/// there, and on which device, is not; and no run waits for its other users, nor they for the run: the caller orders them.
pub struct RawSlice<'a, T> {
    address: *const T,
    len: usize,
    owner: PhantomData<&'a [T]>,
}

/// [`RawSlice`] that a kernel writes.
pub struct RawSliceMut<'a, T> {
    address: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an address with the promises of a `&[T]`, which may be sent where T may be shared.
unsafe impl<T: Sync> Send for RawSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for RawSlice<'_, T> {}
// SAFETY: it is an address with the promises of a `&mut [T]`, which may be sent where T may.
unsafe impl<T: Send> Send for RawSliceMut<'_, T> {}
// SAFETY: shared, it gives nothing but the address.
unsafe impl<T: Sync> Sync for RawSliceMut<'_, T> {}

impl<T> Clone for RawSlice<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, T> RawSlice<'a, T> {
    /// `len` elements from `address` on. `owner` is what keeps the memory alive, such as the engine's tensor: the slice
    /// borrows it.
    ///
    /// # Safety
    /// Until every kernel that was given the slice has finished, for a captured one whenever a graph replays it:
    /// * `len` elements from `address` on are allocated: in the context of a GPU, or in this process;
    /// * the slice is given to plans of a device of that context alone, or of the emulator alone;
    /// * they hold values of `T`, and nobody writes them while a kernel may run: runs on other streams are ordered by the
    ///   caller, with events or waits.
    ///
    /// Where `owner` is borrowed no longer than the call of `run`, the caller keeps the memory for as long as that.
    pub unsafe fn new<O: ?Sized>(owner: &'a O, address: *const T, len: usize) -> Self {
        let _ = owner;
        Self { address, len, owner: PhantomData }
    }

    /// Where it lies.
    pub fn address(&self) -> *const T {
        self.address
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements from `start` on, `len` of them, of a slice that has as many.
    pub(crate) fn part(&self, start: usize, len: usize) -> Self {
        Self { address: self.address.wrapping_add(start), len, owner: PhantomData }
    }
}

impl<'a, T> RawSliceMut<'a, T> {
    /// `len` elements from `address` on. `owner` is what keeps the memory alive, such as the engine's tensor: the slice
    /// borrows it, alone.
    ///
    /// # Safety
    /// As for [`RawSlice::new`]; and nobody else reads or writes the elements while a kernel may run.
    pub unsafe fn new<O: ?Sized>(owner: &'a mut O, address: *mut T, len: usize) -> Self {
        let _ = owner;
        // SAFETY: the caller vouches for it.
        unsafe { Self::borrowed(address, len) }
    }

    /// [`RawSliceMut::new`] where the lifetime says what is borrowed.
    pub(crate) unsafe fn borrowed(address: *mut T, len: usize) -> Self {
        Self { address, len, owner: PhantomData }
    }

    /// Where it lies.
    pub fn address(&self) -> *mut T {
        self.address
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn as_raw(&self) -> RawSlice<'_, T> {
        RawSlice { address: self.address, len: self.len, owner: PhantomData }
    }

    /// The elements from `start` on, `len` of them, of a slice that has as many.
    pub(crate) fn part(&mut self, start: usize, len: usize) -> RawSliceMut<'_, T> {
        RawSliceMut { address: self.address.wrapping_add(start), len, owner: PhantomData }
    }
}

impl<T> fmt::Debug for RawSlice<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawSlice({:p}, len {})", self.address, self.len)
    }
}

impl<T> fmt::Debug for RawSliceMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawSliceMut({:p}, len {})", self.address, self.len)
    }
}

/// A stream that somebody else made, to be used as [`Stream`]: see [`Device::raw_stream`].
#[derive(Debug, Clone)]
pub struct RawStream(Arc<CudaStream>);

impl<'a> From<&'a RawStream> for Stream<'a> {
    fn from(RawStream(stream): &'a RawStream) -> Self {
        Self::Cuda(stream)
    }
}

impl Device {
    /// The GPU of a context that somebody else made: with another cudarc, another language, or the driver itself.
    /// [`Device::open_gpu`] finds the primary context, which is the one that the CUDA runtime uses, without it. Call it once:
    /// a few bytes of the host stay behind each call. It waits for all work in the context, which a capture does not survive,
    /// and leaves the context current on the calling thread.
    ///
    /// # Errors
    /// As [`Device::open_gpu`].
    ///
    /// # Safety
    /// * `context` is a `CUcontext` of the GPU with this ordinal;
    /// * it is not destroyed before the last clone of the device, and of what was made with it, is dropped. The device never
    ///   destroys it.
    pub unsafe fn gpu_in_context(ordinal: usize, context: *mut c_void) -> Result<Self> {
        super::gpu::require_functions()?;
        let failed = driver_error("wrapping the context");
        cudarc::driver::result::init().map_err(&failed)?;
        let device = cudarc::driver::result::device::get(ordinal as i32).map_err(&failed)?;
        // A context that cannot be bound would be destroyed by the object that cudarc makes of it: look first.
        // SAFETY: the caller vouches for the context.
        unsafe { cudarc::driver::result::ctx::set_current(context.cast()) }.map_err(&failed)?;
        // SAFETY: as above.
        let context = unsafe { CudaContext::from_raw_context(ordinal, device, context.cast()) };
        let context = context.map_err(&failed)?;
        // cudarc would destroy the context with its last owner: there is always one more.
        std::mem::forget(context.clone());
        Self::gpu(&context)
    }

    /// A stream that somebody else made: make it once, and run on it as often as you like.
    ///
    /// # Errors
    /// [`Error::Operand`] on the emulator, which has no streams.
    ///
    /// # Safety
    /// * `stream` is a `CUstream` of the device's context;
    /// * it is not destroyed before the last clone of the result is dropped;
    /// * while it is captured, the result is kept: of captures on streams that it does not know the device cannot beware;
    /// * work that others give to it, and that uses operands of cudarc's, is ordered by the caller.
    pub unsafe fn raw_stream(&self, stream: *mut c_void) -> Result<RawStream> {
        match self.backend() {
            // SAFETY: the caller vouches for the stream.
            Backend::Cuda(gpu) => Ok(RawStream(unsafe { gpu.context.wrap_borrowed_stream(stream.cast()) })),
            Backend::Emulated(_) => Err(Error::other_device("stream", "the emulator", "a GPU")),
        }
    }
}
