//! Where kernels run: a Hopper GPU, or an emulated one on the CPU.

use std::ffi::CString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::{CudaContext, CudaStream};

use crate::error::{Error, Result};
use crate::ffi::{
    DeviceFault, EmulatorLibrary, FAULT_CACHE_SLOT, FAULT_EXPERT_ID, FAULT_KINDS, FAULT_NONFINITE_INPUT,
    FAULT_PAGE_ID, FAULT_POSITION, FAULT_SEGMENT, FAULT_SEQUENCE_LENGTH, TensorMap, kernel_name,
};
use crate::gpu::{self, CudaKernel, Gpu, KernelAttributes, driver_error};
use crate::tensor_map::TensorMapSpec;

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

/// The queue that a run joins: a stream of the GPU, or none on the emulator, which finishes before `run` returns.
///
/// # Order
/// With cudarc's event tracking on, as it comes, a run waits for earlier users of its operands on other streams, and they
/// for it; operands that belong to another `CudaContext` object of the same context are joined by their stream. With
/// tracking off the caller orders, and keeps operands until the run is over, as the safety rules of cudarc's
/// `disable_event_tracking` say. The memory of a [`MoeLayer`](crate::MoeLayer) is ordered either way.
///
/// # Captures
/// A run may be captured into a graph, in every mode, tracked or not: it only adds its kernels, waits for no event and
/// records none. The caller orders:
/// * work on the operands before a launch of the graph, and work after it on another stream than the graph's: cudarc does
///   not know what a graph does;
/// * runs of one capture on several streams, by events of the caller's;
/// * launches of a graph with a `MoeLayer` against each other and against runs of the same layer outside of it.
///
/// A graph holds addresses. As long as it may be launched, keep its operands, a clone of the [`Device`] (the kernels and
/// the words they report to), and the `MoeLayer` itself; other plans may go.
///
/// While any stream is captured, [`Device::gpu`], every `plan` and [`Device::upload`] may be called and do not become part
/// of the graph; an upload is refused while [`Device::stream`] itself is captured.
/// [`Buffer::to_vec`](crate::Buffer::to_vec) needs a wait for the whole context, which CUDA forbids: it is refused. The last
/// clone of a device waits when it is dropped; if a stream that has launched its kernels is captured then, it leaves them
/// loaded instead. Of captures in which no kernel of the device was launched it cannot know, and CUDA invalidates these.
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

/// Bad data that kernels met and that the host cannot see without waiting: `DeviceFault` in `cuda/params.h`, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFaults(u32);

impl DataFaults {
    fn met(self, fault: DeviceFault) -> bool {
        self.0 & (1 << fault) != 0
    }

    /// A quantiser met Inf (saturated) or NaN (kept), each in its own element only.
    pub fn nonfinite_input(self) -> bool {
        self.met(FAULT_NONFINITE_INPUT)
    }

    /// The rows of an expert were not within the rows there are, or not in order; they were cut.
    pub fn segment(self) -> bool {
        self.met(FAULT_SEGMENT)
    }

    /// A page table named a page that the cache does not have; its tokens were zeros.
    pub fn page_id(self) -> bool {
        self.met(FAULT_PAGE_ID)
    }

    /// A sequence was longer than its pages, or its length negative; it was cut.
    pub fn sequence_length(self) -> bool {
        self.met(FAULT_SEQUENCE_LENGTH)
    }

    /// An expert id was neither -1 nor one of the experts; it was treated as -1.
    pub fn expert_id(self) -> bool {
        self.met(FAULT_EXPERT_ID)
    }

    /// A slot was neither -1 nor a row of the KV cache; its token was not stored.
    pub fn cache_slot(self) -> bool {
        self.met(FAULT_CACHE_SLOT)
    }

    /// A position was not in the table of angles; what it belongs to became zeros.
    pub fn position(self) -> bool {
        self.met(FAULT_POSITION)
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
    /// Loads the kernels onto the GPU of `context`, which the caller keeps using as before. If the context has no stream of
    /// cudarc's yet, cudarc waits for all work in it, which a capture does not survive; otherwise it may be called while a
    /// stream is captured.
    ///
    /// # Errors
    /// [`Error::KernelsNotBuilt`], [`Error::UnsupportedDevice`] unless it has compute capability 9.0,
    /// [`Error::DriverFunctionMissing`], [`Error::DriverTooOld`] for kernels that a newer CUDA compiled, driver errors.
    pub fn gpu(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self(Arc::new(Backend::Cuda(Arc::new(Gpu::load(context, &[])?)))))
    }

    /// As [`Device::gpu`], with other builds of some kernels: to compare an edited kernel with the current one.
    ///
    /// # Errors
    /// As [`Device::gpu`]; [`Error::KernelsNotBuilt`] when a name is no kernel's.
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
    /// [`Error::DriverNotFound`] instead of the panic that cudarc answers with; otherwise as [`Device::gpu`].
    pub fn open_gpu(ordinal: usize) -> Result<Self> {
        gpu::require_functions()?;
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
        Self(Arc::new(Backend::Emulated(Emulator { library, options, error_words: Default::default() })))
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

    pub(crate) fn backend(&self) -> &Backend {
        &self.0
    }

    /// A kernel of the crate by name.
    pub(crate) fn kernel(&self, name: &str) -> Result<KernelHandle> {
        match &*self.0 {
            Backend::Cuda(gpu) => gpu.kernel(name).cloned().map(KernelHandle::Cuda),
            Backend::Emulated(emulator) => {
                let name = kernel_name(name);
                emulator.library.has_kernel(&name).then_some(KernelHandle::Emulated(name))
            }
        }
        .ok_or(Error::KernelsNotBuilt { reason: "this build has no kernel of that name" })
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

/// The emulator and what a launch needs besides its operands.
pub(crate) struct Emulator {
    pub library: EmulatorLibrary,
    pub options: EmulatorOptions,
    pub error_words: [AtomicU32; FAULT_KINDS as usize],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_data_are_named_in_words() {
        for (bits, text) in [
            (1 << FAULT_PAGE_ID, "pages that the cache does not have"),
            (1 << FAULT_SEQUENCE_LENGTH, "sequences longer than their pages, or of negative length"),
            (1 << FAULT_CACHE_SLOT, "slots that are no rows of the cache"),
            (1 << FAULT_POSITION, "positions beyond the table of angles"),
            (
                1 << FAULT_POSITION | 1 << FAULT_CACHE_SLOT,
                "slots that are no rows of the cache; positions beyond the table of angles",
            ),
            (1 << 31, "unknown bits 0x80000000"),
        ] {
            let error = Error::Data(DataFaults(bits));
            assert_eq!(error.to_string(), format!("kernels reported bad data: {text}"));
        }
    }
}
