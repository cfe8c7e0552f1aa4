//! A GPU: the kernels in its context, the words they report to, and what CUDA asks of those who share a context.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, PinnedHostSlice, sys};
use cudarc::driver::{DevicePtr, DeviceRepr};
use cudarc::nvrtc::Ptx;

use crate::device::bindings::{FAULT_KINDS, TensorMap};
use crate::device::{Backend, Device, Stream};
use crate::error::{Error, Result};
use crate::table::{MAX_SMEM_BYTES, launch_sizes};
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{MAX_RANK, Swizzle, TensorMapArrays, TensorMapSpec};

#[cfg(has_cubins)]
include!(concat!(env!("OUT_DIR"), "/cubins.rs"));
/// Name and image of every kernel.
#[cfg(not(has_cubins))]
static CUBINS: &[(&str, &[u8])] = &[];
/// The CUDA whose drivers load them.
#[cfg(not(has_cubins))]
const CUBINS_CUDA_MAJOR: i32 = 0;

/// A GPU with the kernels loaded into its context.
pub(crate) struct Gpu {
    pub context: Arc<CudaContext>,
    /// For those who bring none. Made when the kernels are loaded: cudarc waits for the whole context when it makes the
    /// first stream, which no capture survives.
    pub stream: Arc<CudaStream>,
    pub multiprocessors: u32,
    pub name: String,
    pub addresses: Addresses,
    /// Freed by hand, once no kernel can be in flight.
    loaded: ManuallyDrop<Loaded>,
    /// Streams that were captured when a kernel was launched on them.
    captured: Mutex<Vec<Weak<CudaStream>>>,
}

/// What kernels in flight need.
struct Loaded {
    kernels: HashMap<&'static str, CudaKernel>,
    error_words: ErrorWords,
}

/// A kernel of a module that is loaded.
#[derive(Clone)]
pub(crate) struct CudaKernel {
    pub name: &'static str,
    pub function: CudaFunction,
    /// Bytes of the one parameter that the kernel takes.
    pub params_bytes: usize,
}

/// What the driver says of a kernel, and how it is launched.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelAttributes {
    /// Its name.
    pub name: &'static str,
    /// Of a thread.
    pub registers: i32,
    /// Local memory of a thread.
    pub local_bytes: i32,
    /// Shared memory that every CTA has.
    pub static_smem_bytes: i32,
    /// Shared memory that a launch asks for.
    pub dynamic_smem_bytes: i32,
    /// Threads that a CTA can have.
    pub max_threads: i32,
    /// Threads that a CTA is launched with.
    pub threads: i32,
}

const NOT_CAPTURED: sys::CUstreamCaptureStatus = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;

impl Gpu {
    /// Loads everything at once: a module loaded later could fall into a graph capture, where loading is illegal.
    /// `others` replace kernels of their names.
    pub fn load(context: &Arc<CudaContext>, others: &[(String, Vec<u8>)]) -> Result<Self> {
        use sys::CUdevice_attribute as Attribute;
        require_functions()?;
        enter(context)?;
        let name = context.name().map_err(driver_error("reading the GPU's name"))?;
        let (major, minor) =
            context.compute_capability().map_err(driver_error("reading the compute capability"))?;
        if (major, minor) != (9, 0) {
            return Err(Error::UnsupportedDevice { name, major, minor });
        }
        if CUBINS.is_empty() {
            return Err(Error::KernelsNotBuilt {
                reason: option_env!("DK_NO_CUBINS_REASON").unwrap_or("unknown"),
            });
        }
        if others.iter().any(|(name, _)| !CUBINS.iter().any(|(kernel, _)| kernel == name)) {
            return Err(Error::KernelsNotBuilt { reason: "a cubin has the name of no kernel" });
        }
        require_version(driver_version()?, CUBINS_CUDA_MAJOR * 1000)?;
        let multiprocessors = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(driver_error("counting multiprocessors"))?;

        let _relaxed = RelaxedCapture::enter()?;
        let stream = context.new_stream().map_err(driver_error("creating a stream"))?;
        let error_words = ErrorWords::new(context)?;
        let mut kernels = HashMap::new();
        for &(kernel, image) in CUBINS {
            let other = others.iter().find(|(name, _)| name == kernel);
            let image = other.map_or(image, |(_, image)| image);
            kernels.insert(kernel, load_kernel(context, kernel, image)?);
        }
        Ok(Self {
            context: context.clone(),
            stream,
            multiprocessors: multiprocessors.unsigned_abs(),
            name,
            addresses: Addresses::new(context)?,
            loaded: ManuallyDrop::new(Loaded { kernels, error_words }),
            captured: Mutex::default(),
        })
    }

    pub fn kernel(&self, name: &str) -> Option<&CudaKernel> {
        self.loaded.kernels.get(name)
    }

    pub fn kernel_attributes(&self) -> Result<Vec<KernelAttributes>> {
        use sys::CUfunction_attribute as Attribute;
        let attributes = |(name, threads, smem_bytes): (String, u32, u32)| {
            let CudaKernel { name, function, .. } = self.kernel(&name)?;
            let ask =
                |attribute| function.get_attribute(attribute).map_err(driver_error("asking about a kernel"));
            let answers = || {
                Ok(KernelAttributes {
                    name,
                    registers: ask(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
                    local_bytes: ask(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
                    static_smem_bytes: ask(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
                    dynamic_smem_bytes: smem_bytes as i32,
                    max_threads: ask(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
                    threads: threads as i32,
                })
            };
            Some(answers())
        };
        launch_sizes().filter_map(attributes).collect()
    }

    pub fn error_words(&self) -> &[AtomicU32; FAULT_KINDS as usize] {
        self.loaded.error_words.words()
    }

    /// Whether `stream` is being captured; kernels launched on it then run when the graph does. Fails if the capture has been
    /// invalidated, for nothing but its end is possible then.
    pub fn is_captured(&self, stream: &Arc<CudaStream>) -> Result<bool> {
        use sys::CUstreamCaptureStatus as Status;
        let status = capture_status(stream)?;
        if status == Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED {
            let remedy = "an earlier call has invalidated the capture; end it and capture again";
            return Err(Error::Captured { what: "a launch", remedy });
        }
        let captured = status == Status::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        if captured {
            let mut known = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|other| other.strong_count() > 0);
            if !known.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(stream))) {
                known.push(Arc::downgrade(stream));
            }
        }
        Ok(captured)
    }

    /// A copy of `data` that every stream may use at once: it is complete. CUDA has no empty allocations, so that there is
    /// at least one element.
    pub fn upload<T: DeviceRepr>(&self, data: &[T]) -> Result<Uploaded<T>> {
        enter(&self.context)?;
        if capture_status(&self.stream)? != NOT_CAPTURED {
            let remedy = "the device's own stream is; capture another one, or end the capture first";
            return Err(Error::Captured { what: "an upload", remedy });
        }
        let _relaxed = RelaxedCapture::enter()?;
        // SAFETY: the elements of `data` are written before anyone can read them, and no other is ever read.
        let slice = unsafe { self.stream.alloc::<T>(data.len().max(1)) };
        let mut slice = slice.map_err(driver_error("allocating on the GPU"))?;
        if !data.is_empty() {
            self.stream.memcpy_htod(data, &mut slice).map_err(driver_error("copying to the GPU"))?;
        }
        self.stream
            .synchronize()
            .and(self.context.check_err())
            .map_err(driver_error("copying to the GPU"))?;
        Ok(Uploaded(ManuallyDrop::new(slice)))
    }

    /// The first `len` elements, after everything in the context has finished.
    pub fn download<T: DeviceRepr>(&self, slice: &CudaSlice<T>, len: usize) -> Result<Vec<T>> {
        self.wait_for_all("reading a buffer")?;
        // Another thread may capture the stream meanwhile: the copy would wait for the graph, and this does not succeed.
        let copied = self.stream.clone_dtoh(&slice.slice(..len));
        let waited = self.stream.synchronize().and(self.context.check_err());
        copied.and_then(|data| waited.map(|()| data)).map_err(driver_error("copying from the GPU"))
    }

    /// Waits for everything in the context. Fails before it waits if a capture that the device knows forbids it.
    pub fn wait_for_all(&self, what: &'static str) -> Result<()> {
        enter(&self.context)?;
        let refused = || Error::Captured { what, remedy: "end the capture first" };
        let known = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in known.iter().filter_map(Weak::upgrade).chain([self.stream.clone()]) {
            if capture_status(&stream)? != NOT_CAPTURED {
                return Err(refused());
            }
        }
        drop(known);
        self.context.synchronize().map_err(|error| {
            if forbidden_by_capture(error) { refused() } else { driver_error("waiting for the GPU")(error) }
        })
    }
}

impl Drop for Gpu {
    /// Kernels may still be queued, on anyone's stream. If a capture forbids to wait for them, what they need stays.
    fn drop(&mut self) {
        let earlier = self.context.check_err();
        let waited = self.wait_for_all("dropping a device");
        self.context.record_err(earlier);
        if !matches!(waited, Err(Error::Captured { .. })) {
            // SAFETY: nothing uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.loaded) };
        }
    }
}

fn load_kernel(context: &Arc<CudaContext>, name: &'static str, image: &[u8]) -> Result<CudaKernel> {
    use sys::CUfunction_attribute as Attribute;
    let module =
        context.load_module(Ptx::from_binary(image.to_vec())).map_err(driver_error("loading a kernel"))?;
    let function = module.load_function(name).map_err(driver_error("finding a kernel in its module"))?;
    // Once, at the maximum: a later, smaller setting would fail launches already planned.
    function
        .set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, MAX_SMEM_BYTES as i32)
        .map_err(driver_error("asking for shared memory"))?;
    // SAFETY: the function is loaded. Drivers that load lazily do it now instead of in a capture.
    unsafe { sys::cuFuncLoad(function.cu_function()) }
        .result()
        .map_err(driver_error("loading a kernel's code"))?;
    let params_bytes = params_bytes(&function)?;
    Ok(CudaKernel { name, function, params_bytes })
}

fn params_bytes(function: &CudaFunction) -> Result<usize> {
    let (mut offset, mut bytes) = (0, 0);
    // SAFETY: the function is loaded, and both results are valid for the call.
    unsafe { sys::cuFuncGetParamInfo(function.cu_function(), 0, &mut offset, &mut bytes) }
        .result()
        .map_err(driver_error("reading the size of a kernel's parameters"))?;
    Ok(bytes)
}

/// Makes the context current. What an earlier call left in it, such as a drop that failed, is told as that.
pub(crate) fn enter(context: &CudaContext) -> Result<()> {
    context.check_err().map_err(driver_error("an earlier call on this context"))?;
    context.bind_to_thread().map_err(driver_error("binding the context"))
}

fn capture_status(stream: &CudaStream) -> Result<sys::CUstreamCaptureStatus> {
    stream.capture_status().map_err(driver_error("asking whether a stream is captured"))
}

/// Answers of calls that reach beyond one stream, such as a wait for the context.
fn forbidden_by_capture(DriverError(code): DriverError) -> bool {
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
struct RelaxedCapture(sys::CUstreamCaptureMode);

impl RelaxedCapture {
    fn enter() -> Result<Self> {
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

/// Memory of [`Gpu::upload`], freed as it was allocated: although a stream is captured. CUDA refuses that otherwise, and
/// the memory would never be freed.
pub(crate) struct Uploaded<T>(ManuallyDrop<CudaSlice<T>>);

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
    fn new(context: &CudaContext) -> Result<Self> {
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

/// The last run that used memory of the crate's own, on whatever stream it was. With cudarc's tracking off nothing else
/// orders the next run, or the release of the memory, after it. In a capture whoever replays the graph does.
///
/// First field of a struct of such memory: what is freed after it is freed behind the last use.
pub(crate) struct LastUse(Option<Recorded>);

struct Recorded {
    gpu: Arc<Gpu>,
    event: CudaEvent,
    /// A wait for an event that never was is left out.
    recorded: bool,
}

impl LastUse {
    /// The emulator needs none: there a run is over when it returns.
    pub fn new(device: &Device) -> Result<Self> {
        let Backend::Cuda(gpu) = device.backend() else { return Ok(Self(None)) };
        enter(&gpu.context)?;
        let event = gpu.context.new_event(None).map_err(driver_error("creating an event"))?;
        Ok(Self(Some(Recorded { gpu: gpu.clone(), event, recorded: false })))
    }

    /// What is enqueued on `stream` from now on comes after the last use.
    pub fn precede(&self, stream: Stream<'_>) -> Result<()> {
        let (Some(last), Stream::Cuda(stream)) = (&self.0, stream) else { return Ok(()) };
        if !last.recorded || !last.is_ordered_on(stream)? {
            return Ok(());
        }
        stream.wait(&last.event).map_err(driver_error("waiting for the run before"))
    }

    /// The last use is what `stream` has been given until now.
    pub fn record(&mut self, stream: Stream<'_>) -> Result<()> {
        let (Some(last), Stream::Cuda(stream)) = (&mut self.0, stream) else { return Ok(()) };
        if !last.is_ordered_on(stream)? {
            return Ok(());
        }
        last.event.record(stream).map_err(driver_error("recording the run"))?;
        last.recorded = true;
        Ok(())
    }
}

impl Recorded {
    /// A stream of another context is refused by the launches.
    fn is_ordered_on(&self, stream: &Arc<CudaStream>) -> Result<bool> {
        if stream.context().cu_ctx() != self.gpu.context.cu_ctx() {
            return Ok(false);
        }
        enter(stream.context())?;
        Ok(!self.gpu.is_captured(stream)?)
    }
}

impl Drop for LastUse {
    fn drop(&mut self) {
        if let Some(Recorded { gpu, event, recorded: true }) = &self.0 {
            gpu.context.record_err(gpu.stream.wait(event));
        }
    }
}

/// Words of host memory, one per fault, that kernels store to and the host reads without a copy.
struct ErrorWords {
    words: *mut u32,
    /// Owns the memory.
    _pinned: PinnedHostSlice<u32>,
}

// SAFETY: the words are only touched through `AtomicU32`.
unsafe impl Send for ErrorWords {}
// SAFETY: as above.
unsafe impl Sync for ErrorWords {}

impl ErrorWords {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: u32 has no invalid bit patterns, and the words are zeroed before anyone reads them.
        let pinned = unsafe { context.alloc_pinned_with_flags::<u32>(FAULT_KINDS as usize, flags) };
        let mut pinned = pinned.map_err(driver_error("allocating the error words"))?;
        let words = pinned.as_mut_ptr().map_err(driver_error("mapping the error words"))?;
        let this = Self { words, _pinned: pinned };
        this.words().iter().for_each(|word| word.store(0, std::sync::atomic::Ordering::Relaxed));
        Ok(this)
    }

    fn words(&self) -> &[AtomicU32; FAULT_KINDS as usize] {
        // SAFETY: the pinned allocation holds that many words, is aligned for them and lives as long as `self`.
        unsafe { &*self.words.cast() }
    }
}

/// What cudarc looks for first and last.
const DRIVER_NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// Functions of the driver that are called on the way to a result; a driver that lacks one is too old.
const FUNCTIONS: [&str; 36] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetParamInfo",
    "cuFuncLoad",
    "cuFuncSetAttribute",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
    "cuThreadExchangeStreamCaptureMode",
];

/// cudarc panics when the driver's library or a function in it is missing, so look first.
pub(crate) fn require_functions() -> Result<()> {
    // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does.
    let mut loaded =
        DRIVER_NAMES.iter().filter_map(|&name| unsafe { Some((name, libloading::Library::new(name).ok()?)) });
    let Some((library, handle)) = loaded.next() else {
        return Err(Error::DriverNotFound { tried: "libcuda.so and libcuda.so.1" });
    };
    for function in FUNCTIONS {
        // SAFETY: the address is not used.
        if unsafe { handle.get::<*const c_void>(function.as_bytes()) }.is_err() {
            return Err(Error::DriverFunctionMissing { library, function });
        }
    }
    Ok(())
}

fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the result is valid for the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(driver_error("reading the driver's version"))?;
    Ok(version)
}

/// Any driver of the CUDA generation that compiled the kernels loads them, and of no generation before.
fn require_version(found: i32, needed: i32) -> Result<()> {
    if found >= needed { Ok(()) } else { Err(Error::DriverTooOld { needed, found }) }
}

/// Turns a driver error into ours, without asking the driver for text.
pub(crate) fn driver_error(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |DriverError(code)| Error::Driver { call, code: code as i32, name: format!("{code:?}") }
}

pub(crate) fn encode(spec: &TensorMapSpec) -> Result<TensorMap> {
    use sys::CUtensorMapDataType as Type;
    use sys::CUtensorMapSwizzle as Mode;
    let element = match spec.element {
        MapElement::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        MapElement::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        MapElement::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let swizzle = match spec.swizzle {
        Swizzle::None => Mode::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Span32 => Mode::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Span64 => Mode::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Span128 => Mode::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let TensorMapArrays { rank, dims, strides, box_sizes } = spec.arrays()?;
    let mut map = TensorMap::default();
    // SAFETY: the map is 128 bytes, 128-byte aligned; the arrays have at least `rank` (strides: rank - 1) entries;
    // the driver stores the address without following it.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            element,
            rank,
            spec.base as *mut c_void,
            dims.as_ptr(),
            strides.as_ptr(),
            box_sizes.as_ptr(),
            [1; MAX_RANK].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(map),
        code => Err(Error::TensorMap { operand: spec.operand, reason: format!("{code:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_an_older_generation_are_refused() {
        assert_eq!(require_version(13_000, 13_000), Ok(()));
        assert_eq!(require_version(13_010, 13_000), Ok(()));
        assert_eq!(
            require_version(12_040, 13_000).unwrap_err().to_string(),
            "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.4"
        );
    }
}
