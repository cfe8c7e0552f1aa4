//! The one error type. Every variant carries the values that were wrong; its page says what to do about it.

use std::borrow::Cow;
use std::fmt;

/// What a call can answer instead of a result. Nothing was launched, unless the variant or the operation says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size or a parameter is none that the operation has: choose another, or fill the problem up to it.
    #[error("{what} {problem}")]
    Spec {
        /// The parameter: `k`, `eps`, `tuning`.
        what: &'static str,
        /// What is wrong with it.
        problem: SpecProblem,
    },
    /// A view reaches beyond its memory, or its rows overlap: give it a longer slice, or the pitch that the memory has.
    #[error(transparent)]
    View(#[from] ViewProblem),
    /// An operand, or the stream, is not what the plan needs: give one that is, or plan for this one.
    #[error("{}", problem.of(operand))]
    Operand {
        /// The operand, or `stream`.
        operand: &'static str,
        /// What is wrong with it.
        problem: OperandProblem,
    },
    /// This build cannot do it: build again, with what the message names.
    #[error(transparent)]
    Build(#[from] BuildProblem),
    /// This machine cannot do it: another driver or GPU can; so can the emulator.
    #[error(transparent)]
    Machine(#[from] MachineProblem),
    /// A call into the CUDA driver failed. When the call is `an earlier call on this context`, it was not this one's: cudarc
    /// keeps what a drop could not return, and the error is told here once. When it is `recording the use of the operands`
    /// the kernel is enqueued, but later users of the operands do not wait for it.
    ///
    /// Look the code up: after one that CUDA calls sticky, such as an illegal address, the context is lost, and the process
    /// has to be started again; the others can be tried again.
    #[error("{call} failed with {name} ({code})")]
    Driver {
        /// What was being done.
        call: Cow<'static, str>,
        /// `CUresult`.
        code: i32,
        /// Its name.
        name: String,
    },
    /// CUDA forbids the call while a stream is captured into a graph, and nothing was done: do what the message says, then
    /// call again.
    #[error("{what} is not possible while a stream is captured: {remedy}")]
    Captured {
        /// The call.
        what: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The emulated Hopper found the kernel breaking a rule. The outputs are partly written. It is a bug of the kernel, unless
    /// operands broke a rule that the operation documents: report it with the seed, which replays the run.
    #[error("{kernel} on the emulated Hopper, seed {seed}: {report}")]
    Emulated {
        /// The kernel.
        kernel: String,
        /// The seed that replays the run.
        seed: u64,
        /// Where, which rule, what is missing.
        report: String,
    },
    /// Kernels met data that they had to treat specially; their outputs follow their documentation. Go on with them, or mend
    /// the data and run again.
    #[error("kernels reported bad data: {0}")]
    Data(crate::DataFaults),
}

/// What is wrong with a size or a parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecProblem {
    /// It is not a multiple of what the kernels work in.
    #[error("must be a multiple of {multiple}, got {got}")]
    NotAMultiple {
        /// What it must be a multiple of.
        multiple: usize,
        /// Its value.
        got: usize,
    },
    /// It is larger than the kernels can index.
    #[error("must be at most {limit}, got {got}")]
    TooLarge {
        /// The largest value that works.
        limit: u64,
        /// Its value.
        got: u64,
    },
    /// It makes no sense.
    #[error("must be {expected}, got {got}")]
    OutOfRange {
        /// What it must be.
        expected: &'static str,
        /// Its value.
        got: String,
    },
}

/// What is wrong with a view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewProblem {
    /// The slice is too short for the shape it was given.
    #[error("{shape}{} needs {needed} elements, the slice has {len}", with_pitch(shape, *pitch))]
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
    /// The matrix does not have these columns.
    #[error("columns {start}..{end} are not in {shape}")]
    NoSuchColumns {
        /// The first one.
        start: usize,
        /// The one behind the last.
        end: usize,
        /// Of the matrix.
        shape: Shape,
    },
}

/// What is wrong with an operand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperandProblem {
    /// It does not have the shape that the plan needs.
    Shape {
        /// What its axes are, as in `[k/128, m]`.
        axes: &'static str,
        /// The shape it must have.
        expected: Shape,
        /// The shape it has.
        got: Shape,
    },
    /// It is shorter than the plan asks for.
    TooShort {
        /// Bytes that it must have.
        needed: usize,
        /// Bytes that it has.
        got: usize,
    },
    /// An address or a pitch is not aligned as TMA and 16-byte accesses need it.
    Misaligned {
        /// `address`, `pitch` or `stride of heads`.
        what: &'static str,
        /// The alignment.
        need: u64,
        /// The value, in bytes.
        got: u64,
    },
    /// The operand, the stream and the plan do not live on one device.
    OtherDevice {
        /// The plan's device.
        expected: &'static str,
        /// Where the operand lives.
        got: &'static str,
    },
    /// It is of another kind than the plan's: there is one where none belongs, it was made for another plan, or holds rows of
    /// another format.
    Kind {
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Its tensor map breaks a rule of TMA, or the driver refused it.
    TensorMap {
        /// The rule that was broken.
        rule: String,
    },
}

impl OperandProblem {
    /// The problem in words, with the operand's name where it belongs.
    fn of(&self, operand: &'static str) -> impl fmt::Display {
        fmt::from_fn(move |f| match self {
            Self::Shape { axes, expected, got } => {
                write!(f, "expected {operand} {axes} {expected}, got {got}")
            }
            Self::TooShort { needed, got } => {
                write!(f, "{operand} must have at least {needed} bytes, got {got}")
            }
            Self::Misaligned { what, need, got } => {
                write!(f, "{operand}: {what} must be a multiple of {need} bytes, got {got}")
            }
            Self::OtherDevice { expected, got } => {
                write!(f, "{operand} belongs to another device: expected {expected}, got {got}")
            }
            Self::Kind { expected, got } => write!(f, "{operand}: expected {expected}, got {got}"),
            Self::TensorMap { rule } => write!(f, "tensor map of {operand}: {rule}"),
        })
    }
}

/// What a build lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildProblem {
    /// The crate was built without nvcc, so there is nothing to load onto a GPU.
    #[error("the GPU kernels were not built: {reason}")]
    NoKernels {
        /// What build.rs said.
        reason: &'static str,
    },
    /// The crate was built without the emulator.
    #[error("the emulator was not built: {reason}")]
    NoEmulator {
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
    /// The kernels are not those that this crate launches: there is none of the name, or it takes other parameters.
    #[error("kernel {kernel}: expected {expected}, got {got}; the kernels are of another build")]
    OtherKernels {
        /// The kernel.
        kernel: String,
        /// What the crate launches.
        expected: String,
        /// What there is.
        got: String,
    },
}

/// What a machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MachineProblem {
    /// The driver library could not be opened: no NVIDIA driver is installed.
    #[error("no NVIDIA driver: {tried} could not be loaded")]
    NoDriver {
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
    Gpu {
        /// Name of the GPU.
        name: String,
        /// Its compute capability.
        major: i32,
        /// Its compute capability.
        minor: i32,
    },
}

impl Error {
    pub(crate) fn out_of_range(what: &'static str, expected: &'static str, got: impl fmt::Display) -> Self {
        Self::Spec { what, problem: SpecProblem::OutOfRange { expected, got: got.to_string() } }
    }

    pub(crate) fn other_device(operand: &'static str, expected: &'static str, got: &'static str) -> Self {
        Self::Operand { operand, problem: OperandProblem::OtherDevice { expected, got } }
    }

    pub(crate) fn other_kind(
        operand: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        let (expected, got) = (expected.to_string(), got.to_string());
        Self::Operand { operand, problem: OperandProblem::Kind { expected, got } }
    }

    pub(crate) fn misaligned(operand: &'static str, what: &'static str, need: u64, got: u64) -> Self {
        Self::Operand { operand, problem: OperandProblem::Misaligned { what, need, got } }
    }
}

/// What tells how far apart the rows of a matrix are; a vector has but one.
fn with_pitch(shape: &Shape, pitch: usize) -> String {
    match shape {
        Shape::Vector(_) => String::new(),
        Shape::Matrix(..) => format!(" with pitch {pitch}"),
    }
}

/// `13000` as people say it.
fn release(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The shape of an operand in messages: `[rows, columns]`, or `[elements]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Of a vector: its elements.
    Vector(usize),
    /// Rows and columns.
    Matrix(usize, usize),
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vector(len) => write!(f, "[{len}]"),
            Self::Matrix(rows, columns) => write!(f, "[{rows}, {columns}]"),
        }
    }
}
