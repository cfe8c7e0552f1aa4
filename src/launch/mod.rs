//! The only place that launches a kernel.
//!
//! A launch collects its operands, each turned from a view into an address. Everything that can be wrong with one is found
//! when it is collected; nothing waits, and nothing is enqueued, before [`Launch::run`].

mod cuda;
mod emulated;
mod kernel;
mod operand;
mod scratch;

use cuda::CudaLaunch;
use emulated::EmulatedLaunch;
pub(crate) use kernel::{Kernel, KernelParams, KernelRow};
pub(crate) use operand::{Layout, Operand, check_given, optional};
pub(crate) use scratch::Pieces;
pub use scratch::SCRATCH_ALIGN;
use scratch::{SCRATCH, check_len};

use crate::device::{Backend, Device, KernelHandle, Stream, bindings};
use crate::error::{Error, Result, SpecProblem};
use crate::tensor::{Indices, Slice, SliceMut, Stored, View, ViewMut};

/// CTAs of one launch.
pub(crate) const MAX_GRID: u64 = i32::MAX as u64;
/// Rows and columns: TMA coordinates are 32-bit signed.
pub(crate) const MAX_DIM: u64 = i32::MAX as u64;

pub(crate) fn check_limit(what: &'static str, got: u64, limit: u64) -> Result<()> {
    if got <= limit {
        Ok(())
    } else {
        Err(Error::Spec { what, problem: SpecProblem::TooLarge { limit, got } })
    }
}

/// Fails unless `multiple` divides `got`.
pub(crate) fn check_multiple(what: &'static str, got: usize, multiple: usize) -> Result<()> {
    if got.is_multiple_of(multiple) {
        return Ok(());
    }
    Err(Error::Spec { what, problem: SpecProblem::NotAMultiple { multiple, got } })
}

fn check_at_least_one(what: &'static str, got: usize) -> Result<()> {
    if got == 0 {
        return Err(Error::out_of_range(what, "at least 1", got));
    }
    Ok(())
}

/// Fails unless there is one at least, and no more than the limit.
pub(crate) fn check_range(what: &'static str, got: usize, limit: u64) -> Result<()> {
    check_at_least_one(what, got).and_then(|()| check_limit(what, got as u64, limit))
}

/// Fails unless a factor is one: positive, and far above any model's still such that what it multiplies stays within FP32.
pub(crate) fn check_factor(what: &'static str, got: f32) -> Result<()> {
    if got > 0.0 && got <= 65536.0 {
        return Ok(());
    }
    Err(Error::out_of_range(what, "positive and at most 65536", got))
}

/// Fails unless a parameter is a number, and none below 0.
pub(crate) fn check_not_negative(what: &'static str, got: f32) -> Result<()> {
    if (0.0..=f32::MAX).contains(&got) {
        return Ok(());
    }
    Err(Error::out_of_range(what, "finite and not negative", got))
}

/// A launch of a kernel that takes a `P`.
pub(crate) struct Launch<'l, P>(Target<'l, P>);

enum Target<'l, P> {
    Cuda(CudaLaunch<'l, P>),
    Emulated(EmulatedLaunch<'l, P>),
}

const EMULATED: &str = "the emulator";
const CUDA: &str = "a GPU";
const HOST: &str = "host memory";

impl<'l, P: KernelParams> Launch<'l, P> {
    pub fn new(device: &'l Device, kernel: &'l Kernel<P>, stream: Stream<'l>) -> Result<Self> {
        match (device.backend(), &kernel.handle, stream) {
            (Backend::Cuda(gpu), KernelHandle::Cuda(loaded), Stream::Cuda(stream)) => {
                Ok(Self(Target::Cuda(CudaLaunch::new(gpu, kernel, loaded, stream)?)))
            }
            (Backend::Emulated(emulator), KernelHandle::Emulated(name), Stream::Emulated) => {
                Ok(Self(Target::Emulated(EmulatedLaunch::new(emulator, kernel, name))))
            }
            (Backend::Cuda(_), _, _) => Err(Error::other_device("stream", CUDA, EMULATED)),
            (Backend::Emulated(_), _, _) => Err(Error::other_device("stream", EMULATED, CUDA)),
        }
    }

    /// An operand that the kernel reads.
    pub fn read<V: View>(
        &mut self,
        view: &'l V,
        layout: Layout,
    ) -> Result<Operand<*const <V::Element as Stored>::Raw>> {
        let (slice, extent) = (view.slice(), view.extent());
        layout.check_extent(&extent, size_of::<V::Element>())?;
        let address = match (&mut self.0, slice) {
            (Target::Cuda(launch), Slice::Cuda(view)) => launch.read(layout.name, view)?,
            (Target::Cuda(_), Slice::Raw(raw)) => raw.address().cast_mut().cast(),
            (Target::Emulated(launch), Slice::Host(host)) => {
                launch.read(layout.name, host.as_ptr(), host.len())
            }
            (Target::Emulated(launch), Slice::Raw(raw)) => launch.read(layout.name, raw.address(), raw.len()),
            (Target::Cuda(_), Slice::Host(_)) => return Err(Error::other_device(layout.name, CUDA, HOST)),
            (Target::Emulated(_), Slice::Cuda(_)) => {
                return Err(Error::other_device(layout.name, EMULATED, CUDA));
            }
        };
        if !slice.is_empty() {
            layout.check_address(address, size_of::<V::Element>())?;
        }
        Ok(Operand { name: layout.name, pointer: address.cast_const().cast(), extent })
    }

    /// An operand that the kernel writes.
    pub fn write<'a: 'l, V: ViewMut<'a>>(
        &mut self,
        view: &'l mut V,
        layout: Layout,
    ) -> Result<Operand<*mut <V::Element as Stored>::Raw>> {
        self.write_first(view, layout, usize::MAX)
    }

    /// As [`Self::write`]; of its slice the kernel uses no more than `len` elements.
    fn write_first<'a: 'l, V: ViewMut<'a>>(
        &mut self,
        view: &'l mut V,
        layout: Layout,
        len: usize,
    ) -> Result<Operand<*mut <V::Element as Stored>::Raw>> {
        let extent = view.extent();
        let slice = view.slice_mut();
        layout.check_extent(&extent, size_of::<V::Element>())?;
        let len = len.min(slice.len());
        let address = match (&mut self.0, slice) {
            (Target::Cuda(launch), SliceMut::Cuda(view)) => launch.write(layout.name, view)?,
            (Target::Cuda(_), SliceMut::Raw(raw)) => raw.address().cast(),
            (Target::Emulated(launch), SliceMut::Host(host)) => {
                launch.write(layout.name, host.as_mut_ptr(), len)
            }
            (Target::Emulated(launch), SliceMut::Raw(raw)) => launch.write(layout.name, raw.address(), len),
            (Target::Cuda(_), SliceMut::Host(_)) => {
                return Err(Error::other_device(layout.name, CUDA, HOST));
            }
            (Target::Emulated(_), SliceMut::Cuda(_)) => {
                return Err(Error::other_device(layout.name, EMULATED, CUDA));
            }
        };
        if len > 0 {
            layout.check_address(address, size_of::<V::Element>())?;
        }
        Ok(Operand { name: layout.name, pointer: address.cast(), extent })
    }

    /// Indices of any width.
    pub fn indices(&mut self, indices: &'l Indices<'_>, layout: Layout) -> Result<bindings::Indices> {
        let (words, pitch, words_per_index) = match indices {
            Indices::I32(matrix) => (self.read(matrix, layout)?.pointer, matrix.pitch(), 1),
            Indices::U32(matrix) => (self.read(matrix, layout)?.pointer.cast(), matrix.pitch(), 1),
            Indices::I64(matrix) => (self.read(matrix, layout)?.pointer.cast(), matrix.pitch(), 2),
        };
        let pitch = (pitch as u64).saturating_mul(words_per_index.into());
        Ok(bindings::Indices { words, pitch, words_per_index, ..Default::default() })
    }

    /// The scratch of a plan: its first `bytes`.
    pub fn scratch(&mut self, scratch: &'l mut SliceMut<'_, u8>, bytes: usize) -> Result<*mut u8> {
        check_len(scratch.len(), bytes)?;
        Ok(self.write_first(scratch, SCRATCH, bytes)?.pointer)
    }

    /// The device's error words.
    pub fn error_words(&mut self) -> *mut u32 {
        match &mut self.0 {
            Target::Cuda(launch) => launch.error_words(),
            Target::Emulated(launch) => launch.error_words(),
        }
    }

    /// Enqueues the kernel (a GPU) or runs it to its end (the emulator). An empty grid is no launch at all.
    ///
    /// The contract of whoever fills `params`, which no type checks: every pointer in it came from an operand of this launch,
    /// as large as the kernel takes it to be.
    pub fn run(self, grid: u32, params: &P) -> Result<()> {
        match self.0 {
            _ if grid == 0 => Ok(()),
            Target::Cuda(launch) => launch.run(grid, params),
            Target::Emulated(launch) => launch.run(grid, params),
        }
    }
}
