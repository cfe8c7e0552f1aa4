//! A GPU: the kernels in its context, the words they report to, and what CUDA asks of those who share a context.

mod captures;
mod driver;
mod memory;

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::DeviceRepr;
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, PinnedHostSlice, sys};
use cudarc::nvrtc::Ptx;

use captures::{NOT_CAPTURED, RelaxedCapture, capture_status, forbidden_by_capture};
pub(crate) use driver::{driver_error, require_functions};
use driver::{driver_version, require_version};
pub(crate) use memory::{Addresses, Uploaded};

use crate::device::bindings::{FAULT_KINDS, TensorMap};
use crate::error::{BuildProblem, Error, MachineProblem, OperandProblem, Result};
use crate::table::{self, MAX_SMEM_BYTES};
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

/// The CUDA since which launches that may overlap can be captured (programming guide, "programmatic dependent launch").
const CAPTURES_OVERLAP: i32 = 12_030;

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
            return Err(MachineProblem::Gpu { name, major, minor }.into());
        }
        if CUBINS.is_empty() {
            let reason = option_env!("DK_NO_CUBINS_REASON").unwrap_or("unknown");
            return Err(BuildProblem::NoKernels { reason }.into());
        }
        let known = |name: &str| CUBINS.iter().any(|&(kernel, _)| kernel == name);
        if let Some((name, _)) = others.iter().find(|(name, _)| !known(name)) {
            let expected = "the name of a kernel";
            return Err(Error::out_of_range("name of a cubin", expected, name));
        }
        require_version(driver_version()?, (CUBINS_CUDA_MAJOR * 1000).max(CAPTURES_OVERLAP))?;
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
        let attributes = |kernel: table::Kernel| {
            let table::Kernel { name, threads, smem_bytes, .. } = kernel;
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
        table::kernels().filter_map(attributes).collect()
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

/// Makes the context current. What an earlier call left in it is told first.
pub(crate) fn enter(context: &CudaContext) -> Result<()> {
    check(context)?;
    context.bind_to_thread().map_err(driver_error("binding the context"))
}

/// What an earlier call left in the context, such as a drop that failed, is told as that.
pub(crate) fn check(context: &CudaContext) -> Result<()> {
    context.check_err().map_err(driver_error("an earlier call on this context"))
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
        code => {
            let problem = OperandProblem::TensorMap { rule: format!("the driver refused it with {code:?}") };
            Err(Error::Operand { operand: spec.operand, problem })
        }
    }
}
