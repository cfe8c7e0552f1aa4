//! Where kernels run: a Hopper GPU, or an emulated one on the CPU.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, PinnedHostSlice, sys};
use cudarc::nvrtc::Ptx;

use crate::error::{Error, Result};
use crate::ffi::{
    EmulatorLibrary, FAULT_CACHE_SLOT, FAULT_EXPERT_ID, FAULT_NONFINITE_INPUT, FAULT_PAGE_ID, FAULT_POSITION,
    FAULT_SEGMENT, FAULT_SEQUENCE_LENGTH, TensorMap, kernel_name,
};
use crate::instances::MAX_SMEM_BYTES;
use crate::tensor_map::{MAX_RANK, MapElement, Swizzle, TensorMapArrays, TensorMapSpec};

#[cfg(has_cubins)]
include!(concat!(env!("OUT_DIR"), "/cubins.rs"));
/// Name and image of every kernel.
#[cfg(not(has_cubins))]
static CUBINS: &[(&str, &[u8])] = &[];

/// A GPU or an emulated Hopper, with every kernel of the crate loaded. Clones share it.
#[derive(Clone)]
pub struct Device(Arc<Backend>);

pub(crate) enum Backend {
    Cuda(Gpu),
    Emulated(Emulator),
}

/// Which of the two a [`Device`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A GPU of compute capability 9.0.
    Cuda,
    /// The CPU, running the kernels on a semantic model of Hopper: slow, and strict about every rule it knows.
    Emulated,
}

/// The queue that a run joins: a stream of the GPU, or none on the emulator, which finishes before `run` returns.
#[derive(Clone, Copy)]
pub enum Stream<'a> {
    /// A stream of the device's context.
    Cuda(&'a Arc<CudaStream>),
    /// The calling thread.
    Emulated,
}

impl<'a> From<&'a Arc<CudaStream>> for Stream<'a> {
    fn from(stream: &'a Arc<CudaStream>) -> Self {
        Self::Cuda(stream)
    }
}

/// How the emulator runs. The same options and operands replay the same run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Chooses the interleaving of threads and of asynchronous copies.
    pub seed: u64,
    /// Checks the state of every byte of shared memory, and the rules of wgmma.
    pub check_state: bool,
    /// Checks that conflicting accesses are ordered.
    pub check_races: bool,
    /// Multiprocessors that the planner sees: the size of a persistent grid.
    pub multiprocessors: u32,
}

impl Default for EmulatorOptions {
    /// All checks, seed 0, eight multiprocessors.
    fn default() -> Self {
        Self { seed: 0, check_state: true, check_races: true, multiprocessors: 8 }
    }
}

/// Bad data that kernels met and that the host cannot see without waiting: bits of `DeviceFault` in `cuda/params.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFaults(u32);

impl DataFaults {
    /// A quantiser met Inf (saturated) or NaN (kept), each in its own element only.
    pub fn nonfinite_input(self) -> bool {
        self.0 & FAULT_NONFINITE_INPUT != 0
    }

    /// The rows of an expert were not within the rows there are, or not in order; they were cut.
    pub fn segment(self) -> bool {
        self.0 & FAULT_SEGMENT != 0
    }

    /// A page table named a page that the cache does not have; its tokens were zeros.
    pub fn page_id(self) -> bool {
        self.0 & FAULT_PAGE_ID != 0
    }

    /// A sequence was longer than its pages, or its length negative; it was cut.
    pub fn sequence_length(self) -> bool {
        self.0 & FAULT_SEQUENCE_LENGTH != 0
    }

    /// An expert id was neither -1 nor one of the experts; it was treated as -1.
    pub fn expert_id(self) -> bool {
        self.0 & FAULT_EXPERT_ID != 0
    }

    /// A slot was neither -1 nor a row of the KV cache; its token was not stored.
    pub fn cache_slot(self) -> bool {
        self.0 & FAULT_CACHE_SLOT != 0
    }

    /// A position was not in the table of angles; what it belongs to became zeros.
    pub fn position(self) -> bool {
        self.0 & FAULT_POSITION != 0
    }
}

impl fmt::Display for DataFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = [
            (self.nonfinite_input(), "Inf or NaN in the input of a quantiser"),
            (self.segment(), "rows of an expert out of order or outside the rows there are"),
            (self.expert_id(), "ids of experts that there are not"),
            (self.page_id(), "pages that the cache does not have"),
            (self.sequence_length(), "sequences longer than their pages, or of negative length"),
            (self.cache_slot(), "slots that are no rows of the cache"),
            (self.position(), "positions beyond the table of angles"),
        ];
        let mut met = faults.iter().filter(|(met, _)| *met).map(|(_, text)| text);
        match met.next() {
            Some(first) => met.try_fold(f.write_str(first)?, |(), text| write!(f, "; {text}")),
            None => write!(f, "unknown bits {:#x}", self.0),
        }
    }
}

impl Device {
    /// Loads the kernels onto the GPU of `context`, which the caller keeps using as before.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`], [`Error::UnsupportedDevice`] unless it has compute capability 9.0, driver errors.
    pub fn gpu(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self(Arc::new(Backend::Cuda(Gpu::load(context)?))))
    }

    /// Opens a GPU by its ordinal, in its primary context.
    ///
    /// # Errors
    /// [`Error::DriverNotFound`] instead of the panic that cudarc answers with; otherwise as [`Device::gpu`].
    pub fn open_gpu(ordinal: usize) -> Result<Self> {
        require_driver()?;
        let context = CudaContext::new(ordinal).map_err(driver_error("opening the GPU's context"))?;
        Self::gpu(&context)
    }

    /// The emulated Hopper with default options.
    ///
    /// # Errors
    /// [`Error::EmulatorNotBuilt`].
    pub fn emulated() -> Result<Self> {
        Self::emulated_with(EmulatorOptions::default())
    }

    /// The emulated Hopper. Devices are independent: several may run in parallel threads.
    ///
    /// # Errors
    /// [`Error::EmulatorNotBuilt`].
    pub fn emulated_with(options: EmulatorOptions) -> Result<Self> {
        Ok(Self::emulator(EmulatorLibrary::linked()?, options))
    }

    /// The emulated Hopper with the kernels of another build of `cuda/`, such as a changed one under test.
    ///
    /// # Errors
    /// [`Error::EmulatorLibrary`].
    ///
    /// # Safety
    /// The library was built from the `cuda/emu` folder of this version of the crate: same structs, same functions.
    pub unsafe fn emulated_from_library(path: &Path, options: EmulatorOptions) -> Result<Self> {
        // SAFETY: the caller vouches for the library.
        let library = unsafe { EmulatorLibrary::load(path) }?;
        Ok(Self::emulator(library, options))
    }

    fn emulator(library: EmulatorLibrary, options: EmulatorOptions) -> Self {
        Self(Arc::new(Backend::Emulated(Emulator { library, options, error_word: AtomicU32::new(0) })))
    }

    /// GPU or emulator.
    pub fn kind(&self) -> DeviceKind {
        match &*self.0 {
            Backend::Cuda(_) => DeviceKind::Cuda,
            Backend::Emulated(_) => DeviceKind::Emulated,
        }
    }

    /// Name for reports.
    pub fn name(&self) -> &str {
        match &*self.0 {
            Backend::Cuda(gpu) => &gpu.name,
            Backend::Emulated(_) => "emulated Hopper",
        }
    }

    /// A stream of the device's own, for those who have none: [`Stream::Emulated`], or a non-default CUDA stream that is
    /// made at the first call.
    ///
    /// # Errors
    /// Driver errors.
    pub fn stream(&self) -> Result<Stream<'_>> {
        match &*self.0 {
            Backend::Cuda(gpu) => gpu.stream().map(Stream::Cuda),
            Backend::Emulated(_) => Ok(Stream::Emulated),
        }
    }

    /// Multiprocessors that a persistent grid fills.
    pub fn multiprocessors(&self) -> u32 {
        match &*self.0 {
            Backend::Cuda(gpu) => gpu.multiprocessors,
            Backend::Emulated(emulator) => emulator.options.multiprocessors.max(1),
        }
    }

    /// Tells whether kernels that have *finished* met bad data since the last call, and forgets it. Does not wait.
    ///
    /// # Errors
    /// [`Error::Data`] if they did.
    pub fn poll_error(&self) -> Result<()> {
        let word = match &*self.0 {
            Backend::Cuda(gpu) => gpu.error_word.atomic(),
            Backend::Emulated(emulator) => &emulator.error_word,
        };
        match word.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            bits => Err(Error::Data(DataFaults(bits))),
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0
    }

    /// A kernel of the crate by name.
    pub(crate) fn kernel(&self, name: &str) -> Result<KernelHandle> {
        match &*self.0 {
            Backend::Cuda(gpu) => gpu
                .functions
                .get_key_value(name)
                .map(|(&name, function)| KernelHandle::Cuda { name, function: function.clone() }),
            Backend::Emulated(emulator) => {
                let name = kernel_name(name);
                emulator.library.has_kernel(&name).then_some(KernelHandle::Emulated(name))
            }
        }
        .ok_or(Error::KernelsNotBuilt { reason: "this build has no kernel of that name" })
    }

    pub(crate) fn encode(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        match &*self.0 {
            Backend::Cuda(_) => encode_cuda(spec),
            Backend::Emulated(emulator) => emulator.library.encode(spec),
        }
    }
}

/// A loaded kernel.
#[derive(Clone)]
pub(crate) enum KernelHandle {
    Cuda { name: &'static str, function: CudaFunction },
    Emulated(CString),
}

/// The emulator and what a launch needs besides its operands.
pub(crate) struct Emulator {
    pub library: EmulatorLibrary,
    pub options: EmulatorOptions,
    pub error_word: AtomicU32,
}

/// A GPU with the kernels loaded into its context.
pub(crate) struct Gpu {
    pub context: Arc<CudaContext>,
    pub error_word: ErrorWord,
    functions: HashMap<&'static str, CudaFunction>,
    own_stream: OnceLock<Arc<CudaStream>>,
    multiprocessors: u32,
    name: String,
}

impl Gpu {
    /// Loads everything at once: a module loaded later could fall into a graph capture, where loading is illegal.
    fn load(context: &Arc<CudaContext>) -> Result<Self> {
        use sys::CUdevice_attribute as Attribute;
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
        let multiprocessors = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(driver_error("counting multiprocessors"))?;
        let mut functions = HashMap::new();
        for &(kernel, image) in CUBINS {
            functions.insert(kernel, load_kernel(context, kernel, image)?);
        }
        Ok(Self {
            context: context.clone(),
            error_word: ErrorWord::new(context)?,
            functions,
            own_stream: OnceLock::new(),
            multiprocessors: multiprocessors.unsigned_abs(),
            name,
        })
    }
}

impl Gpu {
    pub fn stream(&self) -> Result<&Arc<CudaStream>> {
        if let Some(stream) = self.own_stream.get() {
            return Ok(stream);
        }
        let stream = self.context.new_stream().map_err(driver_error("creating a stream"))?;
        // A thread that was faster keeps its stream; ours is dropped unused.
        Ok(self.own_stream.get_or_init(|| stream))
    }
}

fn load_kernel(context: &Arc<CudaContext>, name: &str, image: &[u8]) -> Result<CudaFunction> {
    use sys::CUfunction_attribute as Attribute;
    let module =
        context.load_module(Ptx::from_binary(image.to_vec())).map_err(driver_error("loading a kernel"))?;
    let function = module.load_function(name).map_err(driver_error("finding a kernel in its module"))?;
    // Once, at the maximum: a later, smaller setting would fail launches already planned.
    function
        .set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, MAX_SMEM_BYTES as i32)
        .map_err(driver_error("asking for shared memory"))?;
    Ok(function)
}

/// A word of host memory that kernels set bits in and the host reads without a copy.
pub(crate) struct ErrorWord {
    word: *mut u32,
    /// Owns the memory.
    _pinned: PinnedHostSlice<u32>,
}

// SAFETY: the word is only touched through `AtomicU32`.
unsafe impl Send for ErrorWord {}
// SAFETY: as above.
unsafe impl Sync for ErrorWord {}

impl ErrorWord {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: u32 has no invalid bit patterns, and the word is zeroed before anyone reads it.
        let pinned = unsafe { context.alloc_pinned_with_flags::<u32>(1, flags) };
        let mut pinned = pinned.map_err(driver_error("allocating the error word"))?;
        let word = pinned.as_mut_ptr().map_err(driver_error("mapping the error word"))?;
        let this = Self { word, _pinned: pinned };
        this.atomic().store(0, Ordering::Relaxed);
        Ok(this)
    }

    pub fn atomic(&self) -> &AtomicU32 {
        // SAFETY: the pinned allocation is aligned for u32 and lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.word) }
    }
}

const DRIVER_NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// cudarc panics when the driver library is missing, so look first.
fn require_driver() -> Result<()> {
    // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does.
    let found = DRIVER_NAMES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    if found { Ok(()) } else { Err(Error::DriverNotFound { tried: "libcuda.so.1" }) }
}

/// Turns a driver error into ours, without asking the driver for text.
pub(crate) fn driver_error(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |DriverError(code)| Error::Driver { call, code: code as i32, name: format!("{code:?}") }
}

fn encode_cuda(spec: &TensorMapSpec) -> Result<TensorMap> {
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
    fn bad_data_are_named_in_words() {
        for (bits, text) in [
            (FAULT_PAGE_ID, "pages that the cache does not have"),
            (FAULT_SEQUENCE_LENGTH, "sequences longer than their pages, or of negative length"),
            (FAULT_CACHE_SLOT, "slots that are no rows of the cache"),
            (FAULT_POSITION, "positions beyond the table of angles"),
            (
                FAULT_POSITION | FAULT_CACHE_SLOT,
                "slots that are no rows of the cache; positions beyond the table of angles",
            ),
            (1 << 31, "unknown bits 0x80000000"),
        ] {
            let error = Error::Data(DataFaults(bits));
            assert_eq!(error.to_string(), format!("kernels reported bad data: {text}"));
        }
    }
}
