//! Faults planted in the real kernels, each beside the case of its operation.
//!
//! A fault is an edit of the sources, anchored on a few of their tokens ([`anchor`]). The changed kernel is compiled
//! into an emulator of its own and run on what the unchanged kernel solves. What the emulator reports, or which elements are
//! wrong, must contain one of the texts given.

pub mod anchor;
pub mod mutants;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use deepseek_kernels::{Device, EmulatorOptions};

use crate::case::{self, Case, Cases, attempt, memory_of};
use crate::devices::{FAR, FEW_MULTIPROCESSORS, emulated};
use crate::memory::{IndexType, Memory};

/// A change of one place in the sources.
#[derive(Debug, Clone, Copy)]
pub struct Edit {
    /// Names the place.
    pub anchor: &'static str,
    /// What takes its place.
    pub code: &'static str,
}

/// A fault.
#[derive(Clone, Copy)]
pub struct Fault {
    /// Of the module and the fault.
    pub name: &'static str,
    /// What it is tried on, and what that is called.
    pub trial: (&'static str, Trial),
    /// One after the other.
    pub edits: &'static [Edit],
    /// Of each run's failure, one of them.
    pub causes: &'static [&'static str],
}

/// The faults of an operation's kernels: `name: TRIAL, "anchor" => "code", ["cause", "another"];`, with any number of edits.
macro_rules! faults {
    ($($name:ident: $trial:ident, $($anchor:literal => $code:literal),+, [$($cause:literal),+];)*) => {
        /// Faults in its kernels, which their trials must find.
        pub const FAULTS: &[crate::planted::Fault] = &[$(crate::planted::Fault {
            name: concat!(module_path!(), "::", stringify!($name)),
            trial: (concat!(module_path!(), "::", stringify!($trial)), $trial),
            edits: &[$(crate::planted::Edit { anchor: $anchor, code: $code }),+],
            causes: &[$($cause),+],
        }),*];
    };
}
pub(crate) use faults;

/// A case, and its inputs or others.
pub type Changed = (Box<dyn Case>, Arc<dyn case::Problem>);

/// What a fault is tried on: what the unchanged kernels solve.
#[derive(Clone, Copy)]
pub enum Trial {
    /// Cases of operations.
    Cases(fn() -> Cases),
    /// Inputs that no case draws.
    Changed(fn() -> Vec<Changed>),
    /// The same, with indices of 64 bits.
    Wide(fn() -> Vec<Changed>),
    /// Cases of operations whose operands have rows far apart.
    Far(fn() -> Cases),
    /// Test kernels, and what panics unless they do what they should.
    Probe { kernels: &'static [&'static str], run: fn(&Device) },
}

/// Cases with their inputs.
///
/// # Panics
/// Unless they can be drawn.
pub fn drawn(cases: Cases) -> Vec<Changed> {
    let drawn = |case: Box<dyn Case>| {
        let problem = case.draw().expect("inputs");
        (case, problem)
    };
    cases.into_iter().map(drawn).collect()
}

impl Trial {
    fn inputs(self) -> Vec<Changed> {
        match self {
            Self::Cases(cases) | Self::Far(cases) => drawn(cases()),
            Self::Changed(problems) | Self::Wide(problems) => problems(),
            Self::Probe { .. } => vec![],
        }
    }

    /// With its inputs.
    pub fn drawn(self) -> Drawn {
        Drawn { trial: self, inputs: self.inputs() }
    }
}

/// A trial with its inputs, which are the same for every fault and seed.
pub struct Drawn {
    trial: Trial,
    inputs: Vec<Changed>,
}

impl Drawn {
    /// All kernels that the plans look up.
    ///
    /// # Panics
    /// Unless the emulator has them.
    pub fn kernels(&self) -> Vec<String> {
        if let Trial::Probe { kernels, .. } = self.trial {
            return kernels.iter().map(|&kernel| kernel.to_owned()).collect();
        }
        let device = emulated(0);
        let kernels = |(case, _): &Changed| case.kernels(&device).expect("kernels of a case");
        let kernels: BTreeSet<String> = self.inputs.iter().flat_map(kernels).collect();
        kernels.into_iter().collect()
    }

    /// The emulator that it needs, with a seed.
    pub fn emulator(&self, seed: u64) -> EmulatorOptions {
        let options = if matches!(self.trial, Trial::Far(_)) { FAR } else { FEW_MULTIPROCESSORS };
        EmulatorOptions { seed, ..options }
    }

    /// Runs it on a device.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn solve(&self, device: &Device) -> Result<(), String> {
        let memory = |case: &dyn Case| match self.trial {
            Trial::Far(_) => Memory::Far(0),
            Trial::Wide(_) => memory_of(&case.name()).with_index_type(IndexType::I64),
            _ => memory_of(&case.name()).with_index_type(IndexType::I32),
        };
        if let Trial::Probe { run, .. } = self.trial {
            return catch_unwind(AssertUnwindSafe(|| run(device)))
                .map_err(|panic| panic_text(&*panic).to_owned());
        }
        let solve = |(case, problem): &Changed| attempt(problem.clone(), device, memory(&**case)).map(drop);
        self.inputs.iter().try_for_each(solve).map_err(|error| format!("{error:#}"))
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
