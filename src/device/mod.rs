//! Where kernels run: a Hopper GPU, or an emulated one on the CPU.

#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, non_snake_case, clippy::all)]
pub mod bindings;
mod buffer;
pub mod counts;
mod emulated;
mod faults;
pub(crate) mod gpu;
mod raw;
mod stream;
mod tensor_maps;
#[cfg(all(feature = "probes", has_emulator))]
pub mod trace;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::CudaContext;

use crate::error::{BuildProblem, Error, Result};
use crate::tensor::tensor_map::TensorMapSpec;
use bindings::TensorMap;
pub use buffer::Buffer;
use counts::KernelCounts;
pub(crate) use emulated::Emulator;
pub use emulated::EmulatorOptions;
use emulated::{EmulatorLibrary, kernel_name};
#[cfg(all(feature = "probes", has_emulator))]
pub use emulated::{fused_dot_bf16, fused_dot_e4m3};
pub use faults::DataFaults;
pub use gpu::KernelAttributes;
use gpu::{CudaKernel, Gpu, driver_error};
pub use raw::{RawSlice, RawSliceMut, RawStream};
pub use stream::Stream;
pub(crate) use tensor_maps::TensorMaps;

/// A GPU or an emulated Hopper, with every kernel of the crate loaded. Clones share it.
#[derive(Clone)]
pub struct Device(Arc<Backend>);

pub(crate) enum Backend {
    Cuda(Arc<Gpu>),
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

/// Its name and size.
impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {} multiprocessors)", self.name(), self.multiprocessors())
    }
}

impl Device {
    /// Loads the kernels onto the GPU of `context`, which the caller keeps using as before. If the context has no stream of
    /// cudarc's yet, cudarc waits for all work in it, which a capture does not survive; otherwise it may be called while a
    /// stream is captured.
    ///
    /// # Errors
    /// [`Error::Build`] without kernels; [`Error::Machine`] unless the GPU has compute capability 9.0 and the driver is one for
    /// the CUDA that compiled the kernels; driver errors.
    pub fn gpu(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self(Arc::new(Backend::Cuda(Arc::new(Gpu::load(context, &[])?)))))
    }

    /// As [`Device::gpu`], with other builds of some kernels: to compare an edited kernel with the current one.
    ///
    /// # Errors
    /// As [`Device::gpu`]; [`Error::Spec`] when a name is no kernel's.
    ///
    /// # Safety
    /// Every image is a cubin of a kernel of that name with the parameters of this version of the crate.
    #[doc(hidden)]
    pub unsafe fn gpu_with_cubins(context: &Arc<CudaContext>, cubins: &[(String, Vec<u8>)]) -> Result<Self> {
        Ok(Self(Arc::new(Backend::Cuda(Arc::new(Gpu::load(context, cubins)?)))))
    }

    /// What the driver says of every kernel of the crate; nothing on the emulator.
    ///
    /// # Errors
    /// Driver errors.
    #[doc(hidden)]
    pub fn kernel_attributes(&self) -> Result<Vec<KernelAttributes>> {
        match &*self.0 {
            Backend::Cuda(gpu) => gpu.kernel_attributes(),
            Backend::Emulated(_) => Ok(Vec::new()),
        }
    }

    /// Opens a GPU by its ordinal, in its primary context.
    ///
    /// # Errors
    /// [`Error::Machine`] without a driver, instead of the panic that cudarc answers with; otherwise as [`Device::gpu`].
    pub fn open_gpu(ordinal: usize) -> Result<Self> {
        gpu::require_functions()?;
        let context = CudaContext::new(ordinal).map_err(driver_error("opening the GPU's context"))?;
        Self::gpu(&context)
    }

    /// The emulated Hopper with default options.
    ///
    /// # Errors
    /// [`Error::Build`] without an emulator.
    pub fn emulated() -> Result<Self> {
        Self::emulated_with(EmulatorOptions::default())
    }

    /// The emulated Hopper. Devices are independent: several may run in parallel threads.
    ///
    /// # Errors
    /// [`Error::Build`] without an emulator.
    pub fn emulated_with(options: EmulatorOptions) -> Result<Self> {
        Ok(Self::emulator(EmulatorLibrary::linked()?, options))
    }

    /// The emulated Hopper with the kernels of another build of `cuda/`, such as a changed one under test.
    ///
    /// # Errors
    /// [`Error::Build`] when it cannot be loaded.
    ///
    /// # Safety
    /// The library was built from the `cuda/hopper/emulated/machine` folder of this version of the crate: same structs, same functions.
    pub unsafe fn emulated_from_library(path: &Path, options: EmulatorOptions) -> Result<Self> {
        // SAFETY: the caller vouches for the library.
        let library = unsafe { EmulatorLibrary::load(path) }?;
        Ok(Self::emulator(library, options))
    }

    fn emulator(library: EmulatorLibrary, options: EmulatorOptions) -> Self {
        Self(Arc::new(Backend::Emulated(Emulator::new(library, options))))
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

    /// A stream of the device's own, for those who have none: [`Stream::Emulated`], or a non-default CUDA stream.
    ///
    /// # Errors
    /// None now.
    pub fn stream(&self) -> Result<Stream<'_>> {
        match &*self.0 {
            Backend::Cuda(gpu) => Ok(Stream::Cuda(&gpu.stream)),
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

    /// Tells whether kernels that have *finished* met bad data since the last call, and forgets it. Does not wait: of kernels
    /// that still run it may tell now or at a later call, and loses nothing.
    ///
    /// # Errors
    /// [`Error::Data`] if they did.
    pub fn poll_error(&self) -> Result<()> {
        let words = match &*self.0 {
            Backend::Cuda(gpu) => gpu.error_words(),
            Backend::Emulated(emulator) => &emulator.error_words,
        };
        let met = |word: &AtomicU32| u32::from(word.swap(0, Ordering::Relaxed) != 0);
        match words.iter().enumerate().fold(0, |bits, (fault, word)| bits | met(word) << fault) {
            0 => Ok(()),
            bits => Err(Error::Data(DataFaults(bits))),
        }
    }

    /// What the emulator has counted since it was last asked, of every launch that ended well, by the kernel's name. Nothing on a
    /// GPU.
    pub fn take_counts(&self) -> BTreeMap<String, KernelCounts> {
        match &*self.0 {
            Backend::Cuda(_) => BTreeMap::new(),
            Backend::Emulated(emulator) => emulator.take_counts(),
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0
    }

    /// A kernel of the crate by name, whose one parameter has `params_bytes` bytes.
    pub(crate) fn kernel(&self, name: &str, params_bytes: usize) -> Result<KernelHandle> {
        let found = match &*self.0 {
            Backend::Cuda(gpu) => {
                gpu.kernel(name).map(|kernel| (kernel.params_bytes, KernelHandle::Cuda(kernel.clone())))
            }
            Backend::Emulated(emulator) => {
                let name = kernel_name(name);
                emulator.library.params_bytes(&name).map(|bytes| (bytes, KernelHandle::Emulated(name)))
            }
        };
        let got = match found {
            Some((bytes, handle)) if bytes == params_bytes => return Ok(handle),
            Some((bytes, _)) => format!("{bytes} bytes"),
            None => "none of that name".to_owned(),
        };
        let expected = format!("parameters of {params_bytes} bytes");
        Err(BuildProblem::OtherKernels { kernel: name.to_owned(), expected, got }.into())
    }

    pub(crate) fn encode(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        match &*self.0 {
            Backend::Cuda(_) => gpu::encode(spec),
            Backend::Emulated(emulator) => emulator.library.encode(spec),
        }
    }
}

/// A loaded kernel.
#[derive(Clone)]
pub(crate) enum KernelHandle {
    Cuda(CudaKernel),
    Emulated(CString),
}
