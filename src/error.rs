//! The one error type. Every variant carries the values that were wrong.

use std::fmt;

/// What a call can answer instead of a result. Nothing was launched unless the variant says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand does not have the shape the operation needs.
    #[error("expected {what} {expected}, got {got}")]
    Shape {
        /// The operand and its axes, as in `sfa [k/128, m]`.
        what: &'static str,
        /// The shape it must have.
        expected: Shape,
        /// The shape it has.
        got: Shape,
    },
    /// A slice is too short for the shape it was given.
    #[error("{shape} with pitch {pitch} needs {needed} elements, the slice has {len}")]
    SliceTooShort {
        /// Rows and columns.
        shape: Shape,
        /// Elements from one row to the next.
        pitch: usize,
        /// Elements that the shape spans.
        needed: u64,
        /// Elements in the slice.
        len: usize,
    },
    /// Rows would overlap.
    #[error("pitch must be at least the number of columns: expected >= {columns}, got {pitch}")]
    PitchTooSmall {
        /// Columns of the matrix.
        columns: usize,
        /// Elements from one row to the next.
        pitch: usize,
    },
    /// Rows do not follow each other without a gap.
    #[error("{operand}: rows must follow each other without a gap: expected pitch {columns}, got {pitch}")]
    NotDense {
        /// The operand.
        operand: &'static str,
        /// Columns of the matrix.
        columns: usize,
        /// Elements from one row to the next.
        pitch: usize,
    },
    /// A size is not a multiple of what the kernels work in.
    #[error("{what} must be a multiple of {multiple}, got {got}")]
    NotAMultiple {
        /// The size: `k`, `n`.
        what: &'static str,
        /// What it must be a multiple of.
        multiple: usize,
        /// Its value.
        got: usize,
    },
    /// A size is larger than the kernels can index.
    #[error("{what} must be at most {limit}, got {got}")]
    TooLarge {
        /// The size.
        what: &'static str,
        /// The largest value that works.
        limit: u64,
        /// Its value.
        got: u64,
    },
    /// A contiguous cache has no page table, a paged one has.
    #[error("page_table: expected {}, got {}", if *given { "none, the cache is contiguous" } else { "one, the cache is paged" }, if *given { "one" } else { "none" })]
    PageTable {
        /// There was one.
        given: bool,
    },
    /// Splits were scheduled for another shape.
    #[error("the splits belong to another shape: expected {expected}, got {got}")]
    OtherSplits {
        /// The plan's shape.
        expected: String,
        /// Theirs.
        got: String,
    },
    /// A parameter makes no sense.
    #[error("{what} must be {expected}, got {got}")]
    OutOfRange {
        /// The parameter.
        what: &'static str,
        /// What it must be.
        expected: &'static str,
        /// Its value.
        got: String,
    },
    /// An address or a pitch is not aligned as TMA and 16-byte accesses need it.
    #[error("{operand}: {what} must be a multiple of {need} bytes, got {got}")]
    Misaligned {
        /// The operand.
        operand: &'static str,
        /// `address`, `pitch` or `stride of heads`.
        what: &'static str,
        /// The alignment.
        need: u64,
        /// The value, in bytes.
        got: u64,
    },
    /// A cache does not have the format of the plan.
    #[error("expected a cache of {expected}, got {got}")]
    CacheFormat {
        /// The plan's format.
        expected: crate::mla::KvFormat,
        /// The format of the cache.
        got: crate::mla::KvFormat,
    },
    /// An operand, the stream and the plan do not live on one device.
    #[error("{what} belongs to another device: expected {expected}, got {got}")]
    WrongDevice {
        /// The operand or `stream`.
        what: &'static str,
        /// The plan's device.
        expected: &'static str,
        /// Where the operand lives.
        got: &'static str,
    },
    /// The driver library could not be opened: no NVIDIA driver is installed.
    #[error("no NVIDIA driver: {tried} could not be loaded")]
    DriverNotFound {
        /// The library names that were tried.
        tried: &'static str,
    },
    /// The driver's library is there, but not a function that every supported driver has.
    #[error("the NVIDIA driver {library} has no {function}: expected one for CUDA 12.8 or newer")]
    DriverFunctionMissing {
        /// The library.
        library: &'static str,
        /// The function.
        function: &'static str,
    },
    /// The driver cannot load what the compiler made; a newer one can.
    #[error("the NVIDIA driver is too old: expected one for CUDA {} or newer, got one for CUDA {}", release(*needed), release(*found))]
    DriverTooOld {
        /// The oldest version that works, as `cuDriverGetVersion` counts: 13000 is CUDA 13.0.
        needed: i32,
        /// The driver's version.
        found: i32,
    },
    /// The GPU is not a Hopper: the kernels are built for compute capability 9.0 and run on nothing else.
    #[error("unsupported GPU {name}: expected compute capability 9.0, got {major}.{minor}")]
    UnsupportedDevice {
        /// Name of the GPU.
        name: String,
        /// Its compute capability.
        major: i32,
        /// Its compute capability.
        minor: i32,
    },
    /// The crate was built without nvcc, so there is nothing to load onto a GPU.
    #[error("the GPU kernels were not built: {reason}")]
    KernelsNotBuilt {
        /// What build.rs said.
        reason: &'static str,
    },
    /// The crate was built without the emulator.
    #[error("the emulator was not built: {reason}")]
    EmulatorNotBuilt {
        /// What build.rs said.
        reason: &'static str,
    },
    /// An emulator library could not be loaded.
    #[error("cannot load the emulator library {path}: {reason}")]
    EmulatorLibrary {
        /// The file.
        path: String,
        /// What the loader said.
        reason: String,
    },
    /// A call into the CUDA driver failed. When the call is `an earlier call on this context`, it was not this one's: cudarc
    /// keeps what a drop could not return, and the error is told here once. When it is `recording the use of the operands`
    /// the kernel is enqueued, but later users of the operands do not wait for it.
    #[error("{call} failed with {name} ({code})")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// `CUresult`.
        code: i32,
        /// Its name.
        name: String,
    },
    /// CUDA forbids the call while a stream is captured into a graph, and nothing was done.
    #[error("{what} is not possible while a stream is captured: {remedy}")]
    Captured {
        /// The call.
        what: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The kernel was built from other headers than the crate.
    #[error("parameters of {kernel}: expected {expected} bytes, got {got}; the kernels are of another build")]
    ParameterSize {
        /// The kernel.
        kernel: String,
        /// What the kernel takes.
        expected: usize,
        /// What the crate passes.
        got: usize,
    },
    /// A tensor map breaks a rule of TMA, or the driver refused it.
    #[error("tensor map of {operand}: {reason}")]
    TensorMap {
        /// The operand.
        operand: &'static str,
        /// The rule that was broken.
        reason: String,
    },
    /// The driver refused a launch.
    #[error("launch of {kernel} with grid {grid} failed with {name} ({code})")]
    Launch {
        /// The kernel.
        kernel: String,
        /// CTAs.
        grid: u32,
        /// `CUresult`.
        code: i32,
        /// Its name.
        name: String,
    },
    /// The emulated Hopper found the kernel breaking a rule. The outputs are partly written.
    #[error("{kernel} on the emulated Hopper, seed {seed}: {report}")]
    Emulated {
        /// The kernel.
        kernel: String,
        /// The seed that replays the run.
        seed: u64,
        /// Where, which rule, what is missing.
        report: String,
    },
    /// Kernels met data that they had to treat specially; their outputs follow their documentation.
    #[error("kernels reported bad data: {0}")]
    Data(crate::DataFaults),
}

/// `13000` as people say it.
fn release(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A matrix shape in messages: `[rows, columns]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape(pub usize, pub usize);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.0, self.1)
    }
}
