//! A problem of one operation: what every judge runs.
//!
//! A [`Case`] holds sizes; drawn, it is a [`Problem`] with inputs, which may be put on any device, in any [`Memory`], any
//! number of times; [`Prepared`], it runs and is judged. `verify`, tests, planted faults, benches and the run on a GPU
//! differ in the cases they take and in what they do with them, not in how an operation is run.

use std::fmt::{self, Debug, Formatter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result};
use deepseek_kernels::{DataFaults, Device, DeviceKind, Error, Stream};

use crate::anatomy::Anatomy;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Memory, Output};

/// A problem of one operation, without its inputs.
pub trait Case: Debug + Send + Sync {
    /// The operation, as an option names it: `fp8_gemm`.
    fn operation(&self) -> &'static str;

    /// The operation as people call it, with what tells its forms apart: `FP8 GEMM, BF16 D +=`.
    fn title(&self) -> String;

    /// Sizes: `72 x 2112 x 7168`.
    fn shape(&self) -> String;

    /// The sizes, and what else tells this case from others of its operation, without spaces and commas.
    fn label(&self) -> String {
        self.shape().replace(' ', "")
    }

    /// The class of the inputs.
    fn data(&self) -> String;

    /// What one run computes and moves.
    fn work(&self) -> Work;

    /// Every kernel that the plans look up on a device: by default one that is called like the operation.
    ///
    /// # Errors
    /// Of the plan.
    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(vec![self.operation().to_owned()])
    }

    /// The kernels among these that a run launches: by default all of them.
    ///
    /// # Errors
    /// Of the plan.
    fn launched(&self, device: &Device) -> Result<Vec<String>> {
        self.kernels(device)
    }

    /// Whether a second run on the same operands gives what the first one gave: not where a run adds to what it finds.
    fn repeatable(&self) -> bool {
        true
    }

    /// Whether every correct machine gives the same bits. Where an instruction is specified to a bound only, a GPU's bits
    /// are its own, and the reference judges them.
    fn portable_bits(&self) -> bool {
        true
    }

    /// The same with other inputs, of a seed so much higher.
    fn reseeded(&self, by: u64) -> Box<dyn Case>;

    /// Draws the inputs: the same ones each time.
    ///
    /// # Errors
    /// Of the sizes.
    fn draw(&self) -> Result<Arc<dyn Problem>>;

    /// A name without spaces and commas, different for each case.
    fn name(&self) -> String {
        format!("{}/{}", self.operation(), self.label())
    }
}

/// Cases of any operations.
pub type Cases = Vec<Box<dyn Case>>;

/// Cases of one operation among those of others.
pub fn boxed(cases: impl IntoIterator<Item = impl Case + 'static>) -> Cases {
    cases.into_iter().map(|case| Box::new(case) as _).collect()
}

/// What one run computes, and the fewest bytes it can move: each operand once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiplications and additions of the tensor core; 0 where memory alone counts.
    pub flops: u64,
    /// Read and written.
    pub bytes: u64,
}

impl Work {
    /// Rough amount of work for the emulator and the judges, who take about as long for a byte as for 256 operations of a
    /// product.
    pub fn emulated_cost(&self) -> u64 {
        self.flops.saturating_add(self.bytes.saturating_mul(256))
    }
}

/// A problem with its inputs.
pub trait Problem: Send + Sync {
    /// Plans the operation on the arena's device, and puts the operands there; outputs hold sentinels.
    ///
    /// # Errors
    /// Of the device, and of the plan.
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>>;
}

/// A problem on a device.
pub trait Prepared {
    /// What the planner chose.
    fn instance(&self) -> String;

    /// Why the planner chose it, where it had a choice.
    fn reason(&self) -> Option<String> {
        None
    }

    /// Enqueues one run.
    ///
    /// # Errors
    /// Of the launch.
    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()>;

    /// What the last run wrote, after everything enqueued has finished.
    ///
    /// # Errors
    /// Of the device, those of earlier launches included.
    fn outputs(&self) -> Result<Vec<Output>>;

    /// Judges what the first run wrote by references that do not know the device, and whether it wrote anything else.
    ///
    /// # Errors
    /// Of the device.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>>;

    /// Everything that a run may write: the outputs, and what else its kernels use.
    ///
    /// # Errors
    /// As [`Self::outputs`].
    fn writable(&self) -> Result<Vec<Output>> {
        self.outputs()
    }

    /// What a run has to report of its data.
    fn faults(&self) -> DataFaults {
        DataFaults::NONE
    }

    /// What is known of the result, for a diagnosis.
    fn anatomy(&self) -> Option<&dyn Anatomy> {
        None
    }
}

/// What one run gave.
pub struct Ran {
    /// What the planner chose.
    pub instance: String,
    /// Of the launches alone on the emulator, first use included; none on a GPU, where the host's clock would tell of the
    /// host.
    pub seconds: Option<f64>,
    /// What it wrote.
    pub outputs: Vec<Output>,
    /// What the judges say, the report of the data included.
    pub checks: Vec<Check>,
}

/// Runs a problem once and judges it thoroughly.
///
/// # Errors
/// Of the device, the plan and the launch.
pub fn run(problem: Arc<dyn Problem>, device: &Device, memory: Memory) -> Result<Ran> {
    let mut prepared = problem.prepare(&mut Arena::new(device, memory))?;
    let stream = device.stream()?;
    wait(stream)?;
    let start = Instant::now();
    prepared.launch(stream)?;
    wait(stream)?;
    let seconds = (device.kind() == DeviceKind::Emulated).then(|| start.elapsed().as_secs_f64());
    let mut checks = prepared.judge(Scrutiny::Thorough)?;
    checks.push(reported(device, prepared.faults())?);
    Ok(Ran { instance: prepared.instance(), seconds, outputs: prepared.outputs()?, checks })
}

/// What references say of a problem, found when they are first asked: operands that are only timed are never judged. It goes
/// by the inputs alone, so it stays with them, for every device and memory that they are put in.
pub struct Expected<T> {
    thorough: OnceLock<T>,
    brief: OnceLock<T>,
}

impl<T> Default for Expected<T> {
    fn default() -> Self {
        Self { thorough: OnceLock::new(), brief: OnceLock::new() }
    }
}

/// A copy knows nothing yet: it is made to be changed.
impl<T> Clone for Expected<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> Debug for Expected<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Expected")
    }
}

impl<T> Expected<T> {
    /// What was found before, or what `reference` says of a look as close as this.
    ///
    /// # Errors
    /// Of the reference.
    pub fn get(&self, scrutiny: Scrutiny, reference: impl FnOnce() -> Result<T>) -> Result<&T> {
        let place = match scrutiny {
            Scrutiny::Thorough => &self.thorough,
            Scrutiny::Brief => &self.brief,
        };
        if let Some(found) = place.get() {
            return Ok(found);
        }
        // Not within `get_or_init`: references share threads, where one that waits may be what the other waits for.
        let found = reference()?;
        Ok(place.get_or_init(|| found))
    }
}

/// What there is to report: the fault, where it is met.
pub fn fault_if(met: bool, fault: DataFaults) -> DataFaults {
    if met { fault } else { DataFaults::NONE }
}

/// What finished kernels reported is what they had to report, and it is told once.
///
/// # Errors
/// Of the device, the report apart.
pub fn reported(device: &Device, expected: DataFaults) -> Result<Check> {
    let poll = || match device.poll_error() {
        Ok(()) => Ok(DataFaults::NONE),
        Err(Error::Data(faults)) => Ok(faults),
        Err(error) => Err(error),
    };
    let (got, again) = (poll()?, poll()?);
    let failure = match (got == expected, again == DataFaults::NONE) {
        (true, true) => None,
        (true, false) => Some(format!("it was told twice: {again}")),
        (false, _) => Some(format!("expected a report of {expected}, got one of {got}")),
    };
    Ok(Check::equal("report", 1, failure))
}

/// Until everything enqueued has finished.
///
/// # Errors
/// Of what was enqueued.
pub fn wait(stream: Stream<'_>) -> Result<()> {
    match stream {
        Stream::Cuda(stream) => stream.synchronize().context("waiting for the GPU"),
        Stream::Emulated => Ok(()),
    }
}

/// Runs a problem once; what it gave, where every check passes.
///
/// # Errors
/// The first thing that is wrong, in words.
pub fn attempt(problem: Arc<dyn Problem>, device: &Device, memory: Memory) -> Result<Ran> {
    let ran = run(problem, device, memory)?;
    match ran.checks.iter().find_map(|check| Some((check.oracle, check.failure.as_ref()?))) {
        Some((oracle, failure)) => anyhow::bail!("{oracle}: {failure}"),
        None => Ok(ran),
    }
}

/// Memory that a name decides: a test's operands lie the same way each time, and otherwise than those of its neighbours.
pub fn memory_of(name: &str) -> Memory {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    Memory::Poisoned(hasher.finish())
}

/// Runs a case once in poisoned memory; what it wrote.
///
/// # Panics
/// With the case and what is wrong, unless every check passes.
pub fn pass(case: &dyn Case, device: &Device) -> Vec<Output> {
    pass_in(case, device, memory_of(&case.name()))
}

/// As [`pass`], in the given memory.
///
/// # Panics
/// As [`pass`].
pub fn pass_in(case: &dyn Case, device: &Device, memory: Memory) -> Vec<Output> {
    let ran = case.draw().and_then(|problem| attempt(problem, device, memory));
    match ran {
        Ok(ran) => ran.outputs,
        Err(error) => panic!("{} on {}: {error:#}\n{case:?}, {memory:?}", case.name(), device.name()),
    }
}
