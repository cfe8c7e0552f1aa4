//! The only place that launches a kernel.
//!
//! A launch collects its operands, each turned from a checked view into an address: on a GPU the stream is made to wait
//! for earlier users of the memory and later users wait for the launch; on the emulator the memory becomes a region that
//! the kernel may touch.

use std::ffi::{CStr, c_void};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use cudarc::driver::result::{DriverError, launch_kernel};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};
use cudarc::driver::{DeviceSlice, SyncOnDrop};

use crate::device::{Backend, Device, Emulator, KernelHandle, Stream, driver_error};
use crate::error::{Error, Result};
use crate::ffi::{EmuLaunch, EmuRegion};
use crate::tensor::{Slice, SliceMut};

/// CTAs of one launch.
pub(crate) const MAX_GRID: u64 = i32::MAX as u64;
/// Rows and columns: TMA coordinates are 32-bit signed.
pub(crate) const MAX_DIM: u64 = i32::MAX as u64;

/// Operands of one launch, the error word included.
const MAX_OPERANDS: usize = 9;

pub(crate) fn check_limit(what: &'static str, got: u64, limit: u64) -> Result<()> {
    if got <= limit { Ok(()) } else { Err(Error::TooLarge { what, limit, got }) }
}

/// Fails unless `multiple` divides `got`.
pub(crate) fn check_multiple(what: &'static str, got: usize, multiple: usize) -> Result<()> {
    if got.is_multiple_of(multiple) { Ok(()) } else { Err(Error::NotAMultiple { what, multiple, got }) }
}

/// A device address, typed only where it enters a parameter struct.
pub(crate) type Address = *mut c_void;

pub(crate) struct Launch<'l>(Target<'l>);

enum Target<'l> {
    Cuda(CudaLaunch<'l>),
    Emulated(EmulatedLaunch<'l>),
}

struct CudaLaunch<'l> {
    context: &'l Arc<CudaContext>,
    stream: &'l Arc<CudaStream>,
    kernel: &'static str,
    function: &'l CudaFunction,
    error_word: &'l AtomicU32,
    /// Record the launch in the slices' events when dropped: they must outlive it.
    guards: [Option<SyncOnDrop<'l>>; MAX_OPERANDS],
    operands: usize,
}

struct EmulatedLaunch<'l> {
    emulator: &'l Emulator,
    kernel: &'l CStr,
    regions: [EmuRegion; MAX_OPERANDS],
    operands: usize,
}

const EMULATED: &str = "the emulator";
const CUDA: &str = "a GPU";
const THIS_GPU: &str = "the plan's GPU context";
const OTHER_GPU: &str = "another GPU context";

impl<'l> Launch<'l> {
    pub fn new(device: &'l Device, kernel: &'l KernelHandle, stream: &'l Stream<'l>) -> Result<Self> {
        match (device.backend(), kernel, stream) {
            (Backend::Cuda(gpu), KernelHandle::Cuda { name, function }, Stream::Cuda(stream)) => {
                same_context("stream", &gpu.context, stream.context())?;
                gpu.context.bind_to_thread().map_err(driver_error("binding the context"))?;
                Ok(Self(Target::Cuda(CudaLaunch {
                    context: &gpu.context,
                    stream,
                    kernel: name,
                    function,
                    error_word: gpu.error_word.atomic(),
                    guards: [const { None }; MAX_OPERANDS],
                    operands: 0,
                })))
            }
            (Backend::Emulated(emulator), KernelHandle::Emulated(kernel), Stream::Emulated) => {
                Ok(Self(Target::Emulated(EmulatedLaunch {
                    emulator,
                    kernel,
                    regions: [EmuRegion::default(); MAX_OPERANDS],
                    operands: 0,
                })))
            }
            (Backend::Cuda(_), _, _) => Err(wrong_device("stream", CUDA, EMULATED)),
            (Backend::Emulated(_), _, _) => Err(wrong_device("stream", EMULATED, CUDA)),
        }
    }

    /// An operand that the kernel reads. `name` is for messages and reports.
    pub fn read<T>(&mut self, name: &'static CStr, slice: &'l Slice<'_, T>) -> Result<Address> {
        match (&mut self.0, slice) {
            (Target::Cuda(launch), Slice::Cuda(view)) => launch.read(name, view),
            (Target::Emulated(launch), Slice::Host(host)) => {
                Ok(launch.region(name, host.as_ptr().cast_mut().cast(), std::mem::size_of_val(*host), false))
            }
            (Target::Cuda(_), Slice::Host(_)) => Err(wrong_device(text(name), CUDA, "host memory")),
            (Target::Emulated(_), Slice::Cuda(_)) => Err(wrong_device(text(name), EMULATED, CUDA)),
        }
    }

    /// An operand that the kernel writes.
    pub fn write<T>(&mut self, name: &'static CStr, slice: &'l mut SliceMut<'_, T>) -> Result<Address> {
        match (&mut self.0, slice) {
            (Target::Cuda(launch), SliceMut::Cuda(view)) => launch.write(name, view),
            (Target::Emulated(launch), SliceMut::Host(host)) => {
                let bytes = std::mem::size_of_val(&**host);
                Ok(launch.region(name, host.as_mut_ptr().cast(), bytes, true))
            }
            (Target::Cuda(_), SliceMut::Host(_)) => Err(wrong_device(text(name), CUDA, "host memory")),
            (Target::Emulated(_), SliceMut::Cuda(_)) => Err(wrong_device(text(name), EMULATED, CUDA)),
        }
    }

    /// [`Launch::read`], and the address is a multiple of `align` bytes, unless the slice is empty and has none.
    pub fn read_aligned<T>(
        &mut self,
        name: &'static CStr,
        slice: &'l Slice<'_, T>,
        align: u64,
    ) -> Result<Address> {
        let needed = if slice.is_empty() { 1 } else { align };
        self.read(name, slice).and_then(|address| aligned(name, address, needed))
    }

    /// [`Launch::write`], and the address is a multiple of `align` bytes.
    pub fn write_aligned<T>(
        &mut self,
        name: &'static CStr,
        slice: &'l mut SliceMut<'_, T>,
        align: u64,
    ) -> Result<Address> {
        let needed = if slice.is_empty() { 1 } else { align };
        self.write(name, slice).and_then(|address| aligned(name, address, needed))
    }

    /// The device's error word.
    pub fn error_word(&mut self) -> Address {
        match &mut self.0 {
            Target::Cuda(launch) => launch.error_word.as_ptr().cast(),
            Target::Emulated(launch) => {
                let word = launch.emulator.error_word.as_ptr();
                launch.region(c"error_word", word.cast(), size_of::<u32>(), true)
            }
        }
    }

    /// Enqueues the kernel (a GPU) or runs it to its end (the emulator). An empty grid is no launch at all.
    ///
    /// `P` is the parameter struct that `cuda/params.h` gives the kernel; every pointer in it came from this launch.
    pub fn run<P>(self, grid: u32, threads: u32, smem_bytes: u32, params: &P) -> Result<()> {
        if grid == 0 {
            return Ok(());
        }
        match self.0 {
            Target::Cuda(launch) => launch.run(grid, threads, smem_bytes, params),
            Target::Emulated(launch) => launch.run(grid, smem_bytes, params),
        }
    }
}

impl<'l> CudaLaunch<'l> {
    fn read<T>(&mut self, name: &'static CStr, view: &'l CudaView<'_, T>) -> Result<Address> {
        same_context(text(name), self.context, view.stream().context())?;
        let (address, guard) = view.device_ptr(self.stream);
        self.keep(guard);
        Ok(address as Address)
    }

    fn write<T>(&mut self, name: &'static CStr, view: &'l mut CudaViewMut<'_, T>) -> Result<Address> {
        same_context(text(name), self.context, view.stream().context())?;
        let (address, guard) = view.device_ptr_mut(self.stream);
        self.keep(guard);
        Ok(address as Address)
    }

    fn keep(&mut self, guard: SyncOnDrop<'l>) {
        self.guards[self.operands] = Some(guard);
        self.operands += 1;
    }

    fn run<P>(self, grid: u32, threads: u32, smem_bytes: u32, params: &P) -> Result<()> {
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes exactly one argument, the struct P, which the driver copies before it returns; the
        // pointers in it are operands whose guards live until the end of this function, and the sizes were checked
        // against the views by the plan.
        let result = unsafe {
            launch_kernel(
                self.function.cu_function(),
                (grid, 1, 1),
                (threads, 1, 1),
                smem_bytes,
                self.stream.cu_stream(),
                &mut arguments,
            )
        };
        result.map_err(|DriverError(code)| Error::Launch {
            kernel: self.kernel.to_owned(),
            grid,
            code: code as i32,
            name: format!("{code:?}"),
        })
    }
}

impl EmulatedLaunch<'_> {
    fn region(&mut self, name: &'static CStr, base: Address, bytes: usize, writable: bool) -> Address {
        self.regions[self.operands] =
            EmuRegion { base, bytes: bytes as u64, writable: u32::from(writable), name: name.as_ptr() };
        self.operands += 1;
        base
    }

    fn run<P>(self, grid: u32, smem_bytes: u32, params: &P) -> Result<()> {
        let options = &self.emulator.options;
        let launch = EmuLaunch {
            kernel: self.kernel.as_ptr(),
            params: std::ptr::from_ref(params).cast(),
            params_bytes: size_of::<P>() as u64,
            grid,
            smem_bytes,
            regions: self.regions.as_ptr(),
            region_count: self.operands as u32,
            seed: options.seed,
            check_state: u32::from(options.check_state),
            check_races: u32::from(options.check_races),
            ..Default::default()
        };
        // SAFETY: the regions are the borrowed host slices, mutably borrowed where writable, for the whole call.
        let result = unsafe { self.emulator.library.launch(&launch) };
        result.map_err(|report| Error::Emulated {
            kernel: self.kernel.to_string_lossy().into_owned(),
            seed: options.seed,
            report,
        })
    }
}

fn aligned(name: &'static CStr, address: Address, need: u64) -> Result<Address> {
    let got = address as u64;
    if got.is_multiple_of(need) {
        return Ok(address);
    }
    Err(Error::Misaligned { operand: text(name), what: "address", need, got: got % need })
}

fn text(name: &'static CStr) -> &'static str {
    name.to_str().unwrap_or("operand")
}

fn same_context(what: &'static str, expected: &Arc<CudaContext>, got: &Arc<CudaContext>) -> Result<()> {
    if Arc::ptr_eq(expected, got) || expected.cu_ctx() == got.cu_ctx() {
        return Ok(());
    }
    Err(wrong_device(what, THIS_GPU, OTHER_GPU))
}

fn wrong_device(what: &'static str, expected: &'static str, got: &'static str) -> Error {
    Error::WrongDevice { what, expected, got }
}
