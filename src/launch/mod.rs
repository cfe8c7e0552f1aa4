//! The only place that launches a kernel.
//!
//! A launch collects its operands, each turned from a checked view into an address: on a GPU the stream is made to wait
//! for earlier users of the memory and later users wait for the launch; on the emulator the memory becomes a region that
//! the kernel may touch.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use cudarc::driver::result::{DriverError, launch_kernel};
use cudarc::driver::{CudaContext, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};
use cudarc::driver::{DeviceSlice, SyncOnDrop};

use crate::device::bindings::{EmuLaunch, EmuRegion};
use crate::device::gpu;
use crate::device::gpu::{CudaKernel, Gpu, driver_error};
use crate::device::{Backend, Device, Emulator, KernelHandle, Stream};
use crate::error::{Error, Result};
use crate::tensor::{Slice, SliceMut};

/// CTAs of one launch.
pub(crate) const MAX_GRID: u64 = i32::MAX as u64;
/// Rows and columns: TMA coordinates are 32-bit signed.
pub(crate) const MAX_DIM: u64 = i32::MAX as u64;

/// Operands of one launch, the error words included.
const MAX_OPERANDS: usize = 9;

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

/// A device address, typed only where it enters a parameter struct.
pub(crate) type Address = *mut c_void;

pub(crate) struct Launch<'l>(Target<'l>);

enum Target<'l> {
    Cuda(CudaLaunch<'l>),
    Emulated(EmulatedLaunch<'l>),
}

struct CudaLaunch<'l> {
    gpu: &'l Gpu,
    stream: &'l Arc<CudaStream>,
    kernel: &'l CudaKernel,
    /// The kernel becomes part of a graph: who captures and replays it orders it with the rest of the world.
    captured: bool,
    operands: [Option<CudaOperand<'l>>; MAX_OPERANDS],
    count: usize,
}

struct CudaOperand<'l> {
    /// Records the launch in the slice's events when dropped: it must outlive the launch.
    _record: SyncOnDrop<'l>,
    /// The operand's stream, when cudarc's tracking ends between it and the launch.
    untracked: Option<Arc<CudaStream>>,
}

struct EmulatedLaunch<'l> {
    emulator: &'l Emulator,
    kernel: &'l CStr,
    regions: [EmuRegion; MAX_OPERANDS],
    operands: usize,
}

const ORDERING: &str = "ordering the operands";
const RECORDING: &str = "recording the use of the operands";
const EMULATED: &str = "the emulator";
const CUDA: &str = "a GPU";
const THIS_GPU: &str = "the plan's GPU context";
const OTHER_GPU: &str = "another GPU context";

impl<'l> Launch<'l> {
    pub fn new(device: &'l Device, kernel: &'l KernelHandle, stream: &'l Stream<'l>) -> Result<Self> {
        match (device.backend(), kernel, stream) {
            (Backend::Cuda(gpu), KernelHandle::Cuda(kernel), Stream::Cuda(stream)) => {
                Ok(Self(Target::Cuda(CudaLaunch::new(gpu, kernel, stream)?)))
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

    /// The device's error words.
    pub fn error_words(&mut self) -> Address {
        match &mut self.0 {
            Target::Cuda(launch) => launch.gpu.error_words().as_ptr().cast_mut().cast(),
            Target::Emulated(launch) => {
                let words = &launch.emulator.error_words;
                let base = words.as_ptr().cast_mut().cast();
                launch.region(c"error_words", base, size_of_val(words), true);
                launch.regions[launch.operands - 1].host = 1;
                base
            }
        }
    }

    /// For a problem without work, whose operands were checked all the same.
    pub fn run_nothing(self) -> Result<()> {
        match self.0 {
            Target::Cuda(launch) => launch.finish(|_| Ok(())),
            Target::Emulated(_) => Ok(()),
        }
    }

    /// Enqueues the kernel (a GPU) or runs it to its end (the emulator). An empty grid is no launch at all.
    ///
    /// `P` is the parameter struct that its family's `params.h` gives the kernel; every pointer in it came from this launch.
    pub fn run<P>(self, grid: u32, threads: u32, smem_bytes: u32, params: &P) -> Result<()> {
        match self.0 {
            Target::Cuda(launch) => launch.run(grid, threads, smem_bytes, params),
            Target::Emulated(_) if grid == 0 => Ok(()),
            Target::Emulated(launch) => launch.run(grid, smem_bytes, params),
        }
    }
}

impl<'l> CudaLaunch<'l> {
    fn new(gpu: &'l Gpu, kernel: &'l CudaKernel, stream: &'l Arc<CudaStream>) -> Result<Self> {
        same_context("stream", &gpu.context, stream.context())?;
        gpu::enter(&gpu.context)?;
        if !Arc::ptr_eq(&gpu.context, stream.context()) {
            gpu::enter(stream.context())?;
        }
        let captured = gpu.is_captured(stream)?;
        let operands = [const { None }; MAX_OPERANDS];
        Ok(Self { gpu, stream, kernel, captured, operands, count: 0 })
    }

    fn read<T>(&mut self, name: &'static CStr, view: &'l CudaView<'_, T>) -> Result<Address> {
        same_context(text(name), &self.gpu.context, view.stream().context())?;
        if self.captured {
            return Ok(self.gpu.addresses.of(view) as Address);
        }
        let untracked = self.join_untracked(view.stream())?;
        let (address, record) = view.device_ptr(self.stream);
        self.keep(CudaOperand { _record: record, untracked });
        Ok(address as Address)
    }

    fn write<T>(&mut self, name: &'static CStr, view: &'l mut CudaViewMut<'_, T>) -> Result<Address> {
        same_context(text(name), &self.gpu.context, view.stream().context())?;
        if self.captured {
            return Ok(self.gpu.addresses.of(view) as Address);
        }
        let untracked = self.join_untracked(view.stream())?;
        let (address, record) = view.device_ptr_mut(self.stream);
        self.keep(CudaOperand { _record: record, untracked });
        Ok(address as Address)
    }

    /// cudarc tracks within one object of a context. An operand of another one is ordered by its stream.
    fn join_untracked(&self, stream: &Arc<CudaStream>) -> Result<Option<Arc<CudaStream>>> {
        if Arc::ptr_eq(stream.context(), self.stream.context())
            || stream.cu_stream() == self.stream.cu_stream()
        {
            return Ok(None);
        }
        gpu::enter(stream.context())?;
        if self.gpu.is_captured(stream)? {
            let remedy = "the stream of an operand is; capture the launch too, or end the capture first";
            return Err(Error::Captured { what: "a launch that is not", remedy });
        }
        self.stream.join(stream).map_err(driver_error(ORDERING))?;
        Ok(Some(stream.clone()))
    }

    fn keep(&mut self, operand: CudaOperand<'l>) {
        self.operands[self.count] = Some(operand);
        self.count += 1;
    }

    fn run<P>(self, grid: u32, threads: u32, smem_bytes: u32, params: &P) -> Result<()> {
        self.finish(|launch| launch.enqueue(grid, threads, smem_bytes, params))
    }

    /// Launches if the operands could be ordered, and records their use.
    fn finish(self, launch: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        // cudarc only notes that a wait failed.
        let ordered = self.stream.context().check_err().map_err(driver_error(ORDERING));
        let launched = ordered.and_then(|()| launch(&self));
        // Each operand is recorded here.
        let untracked = self.operands.map(|operand| operand?.untracked);
        let joined = untracked.into_iter().flatten().try_for_each(|stream| stream.join(self.stream));
        // Taken in any case: a failure of ours must not meet the next call as an earlier one's.
        let recorded = joined.and(self.stream.context().check_err()).map_err(driver_error(RECORDING));
        launched.and(recorded)
    }

    fn enqueue<P>(&self, grid: u32, threads: u32, smem_bytes: u32, params: &P) -> Result<()> {
        let CudaKernel { name, function, params_bytes } = self.kernel;
        if *params_bytes != size_of::<P>() {
            let kernel = (*name).to_owned();
            return Err(Error::ParameterSize { kernel, expected: *params_bytes, got: size_of::<P>() });
        }
        if grid == 0 {
            return Ok(());
        }
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes exactly one argument of the size of P, which the driver copies before it returns; the
        // pointers in it are operands whose records outlive this call, or in a capture memory that the caller keeps; the
        // sizes were checked against the views by the plan.
        let result = unsafe {
            launch_kernel(
                function.cu_function(),
                (grid, 1, 1),
                (threads, 1, 1),
                smem_bytes,
                self.stream.cu_stream(),
                &mut arguments,
            )
        };
        result.map_err(|DriverError(code)| Error::Launch {
            kernel: (*name).to_owned(),
            grid,
            code: code as i32,
            name: format!("{code:?}"),
        })
    }
}

impl EmulatedLaunch<'_> {
    fn region(&mut self, name: &'static CStr, base: Address, bytes: usize, writable: bool) -> Address {
        self.regions[self.operands] = EmuRegion {
            base,
            bytes: bytes as u64,
            writable: u32::from(writable),
            name: name.as_ptr(),
            ..Default::default()
        };
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
