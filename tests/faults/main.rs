//! Faults planted in the real kernels: every one is caught, on every seed, with a message that names the cause.
//!
//! A fault is an edit of the sources, anchored on a few of their tokens (`anchor.rs`). The changed kernel is compiled
//! into an emulator of its own and run on a problem that the unchanged kernel solves. What the emulator reports, or
//! which elements are wrong, must contain one of the texts given.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use check::case::{self, Case, Cases, attempt, memory_of};
use check::devices::emulated;
use check::memory::IndexType;
use deepseek_kernels::Device;
use deepseek_kernels::table::{Kernel, kernels};
use rayon::prelude::*;

use anchor::Edit;
use library::Library;

/// Tests, one for each fault planted: `name: TRIAL, "anchor" => "code", ["cause", "another"];`, with any number of
/// edits, one after the other.
macro_rules! faults {
    ($(
        $(#[$attribute:meta])*
        $name:ident: $trial:expr, $($anchor:literal => $code:literal),+, [$($cause:literal),+];
    )*) => {$(
        $(#[$attribute])*
        #[test]
        fn $name() {
            let edits = [$($crate::anchor::Edit { anchor: $anchor, code: $code }),+];
            $crate::caught($trial, &edits, &[$($cause),+]);
        }
    )*};
}

mod anchor;
mod gemm;
#[cfg(feature = "probes")]
mod hopper;
mod library;
mod mla;
mod moe;
mod quant;
mod router;

const SEEDS: u64 = 4;

/// A case, and its inputs or others.
type Changed = (Box<dyn Case>, Arc<dyn case::Problem>);

/// What a fault is tried on: what the unchanged kernels solve.
#[derive(Clone, Copy)]
enum Trial {
    /// Cases of operations.
    Cases(fn() -> Cases),
    /// Inputs that no case draws.
    Changed(fn() -> Vec<Changed>),
    /// The same, with indices of 64 bits.
    Wide(fn() -> Vec<Changed>),
    /// Test kernels, and what panics unless they do what they should.
    #[cfg_attr(not(feature = "probes"), expect(dead_code))]
    Probe { kernels: &'static [&'static str], run: fn(&Device) },
}

fn drawn(cases: Cases) -> Vec<Changed> {
    let drawn = |case: Box<dyn Case>| {
        let problem = case.draw().expect("inputs");
        (case, problem)
    };
    cases.into_iter().map(drawn).collect()
}

impl Trial {
    fn inputs(self) -> Vec<Changed> {
        match self {
            Self::Cases(cases) => drawn(cases()),
            Self::Changed(problems) | Self::Wide(problems) => problems(),
            Self::Probe { .. } => vec![],
        }
    }

    /// All kernels that the plans look up.
    fn kernels(self) -> Vec<String> {
        if let Self::Probe { kernels, .. } = self {
            return kernels.iter().map(|&kernel| kernel.to_owned()).collect();
        }
        let device = emulated(0);
        let kernels = |(case, _): &Changed| case.kernels(&device).expect("kernels of a case");
        let kernels: BTreeSet<String> = self.inputs().iter().flat_map(kernels).collect();
        kernels.into_iter().collect()
    }

    /// The first thing that is wrong.
    fn solve(self, device: &Device) -> Result<(), String> {
        match self {
            Self::Cases(_) | Self::Wide(_) | Self::Changed(_) => {
                let index = if matches!(self, Self::Wide(_)) { IndexType::I64 } else { IndexType::I32 };
                let solve = |(case, problem): &Changed| {
                    let memory = memory_of(&case.name()).with_index_type(index);
                    attempt(problem.clone(), device, memory).map(drop)
                };
                self.inputs().iter().try_for_each(solve).map_err(|error| format!("{error:#}"))
            }
            Self::Probe { run, .. } => catch_unwind(AssertUnwindSafe(|| run(device))).map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned())).unwrap_or_default()
            }),
        }
    }
}

/// Plants the fault, runs every seed, and demands one of the causes in every message.
fn caught(trial: Trial, edits: &[Edit], causes: &[&str]) {
    let library = Library::with(&trial.kernels(), edits);
    for seed in 0..SEEDS {
        let solved = trial.solve(&library.device(seed));
        let text = solved.expect_err("the fault went unnoticed");
        assert!(
            causes.iter().any(|cause| text.contains(cause)),
            "seed {seed}: expected one of {causes:?} in: {text}"
        );
        println!("seed {seed}: {text}");
    }
}

fn trials() -> Vec<Trial> {
    let families = [
        #[cfg(feature = "probes")]
        hopper::trials(),
        gemm::trials(),
        quant::trials(),
        router::trials(),
        moe::trials(),
        mla::trials(),
    ];
    families.concat()
}

/// No kernel is left out, though of its instances a few may do.
#[test]
fn every_source_is_tried() {
    let tried: Vec<String> = trials().into_iter().flat_map(Trial::kernels).collect();
    let headers: BTreeSet<String> =
        kernels().filter(|kernel| tried.contains(&kernel.name)).map(|kernel| kernel.header).collect();
    let left_out: Vec<Kernel> = kernels().filter(|kernel| !headers.contains(&kernel.header)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

/// The unchanged sources, through the same build: nothing is found.
#[test]
fn no_fault() {
    trials().par_iter().for_each(|trial| {
        let library = Library::with(&trial.kernels(), &[]);
        (0..SEEDS).for_each(|seed| trial.solve(&library.device(seed)).expect("nothing is planted"));
    });
}
