//! A launch on a GPU: the stream is made to wait for earlier users of the operands, and later users wait for the launch.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, sys};
use cudarc::driver::{DeviceSlice, SyncOnDrop};

use super::kernel::Kernel;
use super::operand::Address;
use crate::device::gpu;
use crate::device::gpu::{CudaKernel, Gpu, driver_error};
use crate::error::{Error, Result};

/// Operands that a launch makes room for at once, in the host's memory: of the device's it allocates nothing.
const USUAL_OPERANDS: usize = 12;

const ORDERING: &str = "ordering the operands";
const RECORDING: &str = "recording the use of the operands";
const THIS_GPU: &str = "the plan's GPU context";
const OTHER_GPU: &str = "another GPU context";

pub(super) struct CudaLaunch<'l, P> {
    gpu: &'l Gpu,
    stream: &'l Arc<CudaStream>,
    kernel: &'l Kernel<P>,
    loaded: &'l CudaKernel,
    /// The kernel becomes part of a graph: who captures and replays it orders it with the rest of the world.
    captured: bool,
    /// To be ordered; none in a capture.
    operands: Vec<View<'l>>,
}

/// An operand whose elements do not matter any more.
enum View<'l> {
    Read(&'l (dyn Read + 'l)),
    Written(&'l mut (dyn Write + 'l)),
}

trait Read {
    fn owner(&self) -> &Arc<CudaStream>;
    /// Makes `stream` wait for those who write; records the launch for them when dropped.
    fn order<'a>(&'a self, stream: &'a CudaStream) -> SyncOnDrop<'a>;
}

trait Write {
    fn owner(&self) -> &Arc<CudaStream>;
    /// Makes `stream` wait for those who read or write; records the launch for them when dropped.
    fn order<'a>(&'a mut self, stream: &'a CudaStream) -> SyncOnDrop<'a>;
}

impl<T> Read for CudaView<'_, T> {
    fn owner(&self) -> &Arc<CudaStream> {
        self.stream()
    }
    fn order<'a>(&'a self, stream: &'a CudaStream) -> SyncOnDrop<'a> {
        self.device_ptr(stream).1
    }
}

impl<T> Write for CudaViewMut<'_, T> {
    fn owner(&self) -> &Arc<CudaStream> {
        self.stream()
    }
    fn order<'a>(&'a mut self, stream: &'a CudaStream) -> SyncOnDrop<'a> {
        self.device_ptr_mut(stream).1
    }
}

struct Ordered<'l> {
    /// Records the launch in the slice's events when dropped: it must outlive the launch.
    _record: SyncOnDrop<'l>,
    /// The operand's stream, when cudarc's tracking ends between it and the launch.
    untracked: Option<Arc<CudaStream>>,
}

impl<'l> View<'l> {
    fn order(self, stream: &'l Arc<CudaStream>) -> std::result::Result<Ordered<'l>, DriverError> {
        let owner = match &self {
            Self::Read(view) => view.owner(),
            Self::Written(view) => view.owner(),
        };
        let untracked = is_untracked(owner, stream).then(|| owner.clone());
        if let Some(owner) = &untracked {
            stream.join(owner)?;
        }
        let record = match self {
            Self::Read(view) => view.order(stream),
            Self::Written(view) => view.order(stream),
        };
        Ok(Ordered { _record: record, untracked })
    }
}

/// cudarc tracks within one object of a context. An operand of another one is ordered by its stream.
fn is_untracked(owner: &Arc<CudaStream>, stream: &Arc<CudaStream>) -> bool {
    !Arc::ptr_eq(owner.context(), stream.context()) && owner.cu_stream() != stream.cu_stream()
}

impl<'l, P> CudaLaunch<'l, P> {
    pub fn new(
        gpu: &'l Gpu,
        kernel: &'l Kernel<P>,
        loaded: &'l CudaKernel,
        stream: &'l Arc<CudaStream>,
    ) -> Result<Self> {
        same_context("stream", &gpu.context, stream.context())?;
        gpu::enter(&gpu.context)?;
        // Of the same context, perhaps another object.
        gpu::check(stream.context())?;
        let captured = gpu.is_captured(stream)?;
        let operands = Vec::with_capacity(if captured { 0 } else { USUAL_OPERANDS });
        Ok(Self { gpu, stream, kernel, loaded, captured, operands })
    }

    pub fn read<T>(&mut self, name: &'static str, view: &'l CudaView<'_, T>) -> Result<Address> {
        let address = self.address(name, view)?;
        if !self.captured {
            self.operands.push(View::Read(view));
        }
        Ok(address)
    }

    pub fn write<T>(&mut self, name: &'static str, view: &'l mut CudaViewMut<'_, T>) -> Result<Address> {
        let address = self.address(name, view)?;
        if !self.captured {
            self.operands.push(View::Written(view));
        }
        Ok(address)
    }

    /// Of an operand that can be ordered. Nothing waits yet, and nothing is recorded.
    fn address<T>(&self, name: &'static str, view: &impl DevicePtr<T>) -> Result<Address> {
        let owner = view.stream();
        same_context(name, &self.gpu.context, owner.context())?;
        if !self.captured && is_untracked(owner, self.stream) {
            gpu::check(owner.context())?;
            if self.gpu.is_captured(owner)? {
                let remedy = "the stream of an operand is; capture the launch too, or end the capture first";
                return Err(Error::Captured { what: "a launch that is not", remedy });
            }
        }
        Ok(self.gpu.addresses.of(view) as Address)
    }

    pub fn error_words(&self) -> *mut u32 {
        self.gpu.error_words().as_ptr().cast_mut().cast()
    }

    /// Launches if the operands could be ordered, and records their use.
    pub fn run(mut self, grid: u32, params: &P) -> Result<()> {
        let (context, stream) = (self.stream.context(), self.stream);
        let mut operands = Vec::with_capacity(self.operands.len());
        let ordered = self.operands.drain(..).try_for_each(|view| {
            operands.push(view.order(stream)?);
            Ok(())
        });
        // cudarc only notes that a wait failed.
        let ordered = ordered.and(context.check_err()).map_err(driver_error(ORDERING));
        let launched = ordered.and_then(|()| self.enqueue(grid, params));
        // Each operand is recorded here.
        let untracked: Vec<_> = operands.into_iter().filter_map(|operand| operand.untracked).collect();
        let joined = untracked.iter().try_for_each(|owner| owner.join(stream));
        // Taken in any case: a failure of ours must not meet the next call as an earlier one's.
        let recorded = joined.and(context.check_err()).map_err(driver_error(RECORDING));
        launched.and(recorded)
    }

    fn enqueue(&self, grid: u32, params: &P) -> Result<()> {
        let CudaKernel { name, function, .. } = self.loaded;
        let mut attributes = [may_overlap()];
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.kernel.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.kernel.smem_bytes,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let mut arguments = [ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: a `Kernel<P>` takes exactly one argument, a P, which the driver copies before it returns: its row of the
        // table names P to the compiler of the kernel too, and the sizes agreed when it was loaded. The families keep the
        // contract of `Launch::run`: the pointers in it are operands of this launch, views of the sizes that the plan asked
        // for. Their records outlive this call; in a capture the caller keeps the memory, as always that of raw slices. The
        // configuration and its attributes are read before the call returns. That the kernel may start before the one ahead of
        // it has ended changes no order between them: every kernel waits for that end before it touches global memory.
        let result = unsafe {
            sys::cuLaunchKernelEx(&config, function.cu_function(), arguments.as_mut_ptr(), ptr::null_mut())
        };
        result.result().map_err(|DriverError(code)| Error::Driver {
            call: format!("launch of {name} with grid {grid}").into(),
            code: code as i32,
            name: format!("{code:?}"),
        })
    }
}

/// A launch may begin while the kernel directly ahead of it in the stream, or in the graph, still runs: `enter_grid` of
/// `cuda/hopper/cta/` says why that is right.
fn may_overlap() -> sys::CUlaunchAttribute {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    sys::CUlaunchAttribute { id, pad: [0; 4], value }
}

fn same_context(what: &'static str, expected: &Arc<CudaContext>, got: &Arc<CudaContext>) -> Result<()> {
    if Arc::ptr_eq(expected, got) || expected.cu_ctx() == got.cu_ctx() {
        return Ok(());
    }
    Err(Error::other_device(what, THIS_GPU, OTHER_GPU))
}
