//! The only place that launches a kernel.
//!
//! A launch collects its operands, each turned from a view into an address. Everything that can be wrong with one is found
//! when it is collected; nothing waits, and nothing is enqueued, before [`Launch::run`].

mod cuda;
mod emulated;
mod kernel;
mod operand;

use cuda::CudaLaunch;
use emulated::EmulatedLaunch;
pub(crate) use kernel::{Kernel, KernelParams, KernelRow};
pub(crate) use operand::{Layout, Operand, optional};

use crate::device::{Backend, Device, KernelHandle, Stream};
use crate::error::{Error, Result};
use crate::tensor::{Extent, Matrix, MatrixMut, Slice, SliceMut, Stored};

/// CTAs of one launch.
pub(crate) const MAX_GRID: u64 = i32::MAX as u64;
/// Rows and columns: TMA coordinates are 32-bit signed.
pub(crate) const MAX_DIM: u64 = i32::MAX as u64;

pub(crate) fn check_limit(what: &'static str, got: u64, limit: u64) -> Result<()> {
    if got <= limit { Ok(()) } else { Err(Error::TooLarge { what, limit, got }) }
}

/// Fails unless `multiple` divides `got`.
pub(crate) fn check_multiple(what: &'static str, got: usize, multiple: usize) -> Result<()> {
    if got.is_multiple_of(multiple) { Ok(()) } else { Err(Error::NotAMultiple { what, multiple, got }) }
}

pub(crate) fn check_at_least_one(what: &'static str, got: usize) -> Result<()> {
    if got == 0 {
        return Err(Error::OutOfRange { what, expected: "at least 1", got: got.to_string() });
    }
    Ok(())
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
            (Backend::Cuda(_), _, _) => Err(wrong_device("stream", CUDA, EMULATED)),
            (Backend::Emulated(_), _, _) => Err(wrong_device("stream", EMULATED, CUDA)),
        }
    }

    /// An operand that the kernel reads.
    pub fn read<T: Stored>(
        &mut self,
        Matrix { slice, extent }: &'l Matrix<'_, T>,
        layout: Layout,
    ) -> Result<Operand<*const T::Raw>> {
        self.read_extent(slice, *extent, layout)
    }

    /// An operand that the kernel writes.
    pub fn write<T: Stored>(
        &mut self,
        MatrixMut { slice, extent }: &'l mut MatrixMut<'_, T>,
        layout: Layout,
    ) -> Result<Operand<*mut T::Raw>> {
        self.write_extent(slice, *extent, layout)
    }

    /// The first `rows * columns` elements of a slice.
    pub fn read_slice<T: Stored>(
        &mut self,
        slice: &'l Slice<'_, T>,
        name: &'static str,
        [rows, columns]: [usize; 2],
    ) -> Result<Operand<*const T::Raw>> {
        let extent = Extent::checked(rows, columns, columns, slice.len())?;
        self.read_extent(slice, extent, Layout::of_any_shape(name))
    }

    /// [`Launch::read_slice`], to be written.
    pub fn write_slice<T: Stored>(
        &mut self,
        slice: &'l mut SliceMut<'_, T>,
        name: &'static str,
        [rows, columns]: [usize; 2],
    ) -> Result<Operand<*mut T::Raw>> {
        let extent = Extent::checked(rows, columns, columns, slice.len())?;
        self.write_extent(slice, extent, Layout::of_any_shape(name))
    }

    fn read_extent<T: Stored>(
        &mut self,
        slice: &'l Slice<'_, T>,
        extent: Extent,
        layout: Layout,
    ) -> Result<Operand<*const T::Raw>> {
        let name = layout.name;
        layout.check_extent(&extent, size_of::<T>())?;
        let address = match (&mut self.0, slice) {
            (Target::Cuda(launch), Slice::Cuda(view)) => launch.read(name, view)?,
            (Target::Emulated(launch), Slice::Host(host)) => launch.read(name, host),
            (Target::Cuda(_), Slice::Host(_)) => return Err(wrong_device(name, CUDA, HOST)),
            (Target::Emulated(_), Slice::Cuda(_)) => return Err(wrong_device(name, EMULATED, CUDA)),
        };
        if !slice.is_empty() {
            layout.check_address(address)?;
        }
        Ok(Operand { name, pointer: address.cast_const().cast(), extent })
    }

    fn write_extent<T: Stored>(
        &mut self,
        slice: &'l mut SliceMut<'_, T>,
        extent: Extent,
        layout: Layout,
    ) -> Result<Operand<*mut T::Raw>> {
        let (name, has_address) = (layout.name, !slice.is_empty());
        layout.check_extent(&extent, size_of::<T>())?;
        let address = match (&mut self.0, slice) {
            (Target::Cuda(launch), SliceMut::Cuda(view)) => launch.write(name, view)?,
            (Target::Emulated(launch), SliceMut::Host(host)) => launch.write(name, host),
            (Target::Cuda(_), SliceMut::Host(_)) => return Err(wrong_device(name, CUDA, HOST)),
            (Target::Emulated(_), SliceMut::Cuda(_)) => return Err(wrong_device(name, EMULATED, CUDA)),
        };
        if has_address {
            layout.check_address(address)?;
        }
        Ok(Operand { name, pointer: address.cast(), extent })
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

fn wrong_device(what: &'static str, expected: &'static str, got: &'static str) -> Error {
    Error::WrongDevice { what, expected, got }
}
