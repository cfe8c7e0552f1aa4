//! Faults planted in the real kernels: every one is caught, on every seed, with a message that names the cause.
//!
//! A fault is an edit of the sources, anchored on a few of their tokens (`anchor.rs`). The changed kernel is compiled
//! into an emulator of its own and run on a problem that the unchanged kernel solves. What the emulator reports, or
//! which elements are wrong, must contain one of the texts given.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use check::case::{Cases, attempt, memory_of};
use check::devices::emulated;
use deepseek_kernels::Device;
use rayon::prelude::*;

use anchor::Edit;
use library::Library;

/// Tests, one for each fault planted: `name: PROBLEM, "anchor" => "code", ["cause", "another"];`, with any number of
/// edits, one after the other.
macro_rules! faults {
    ($(
        $(#[$attribute:meta])*
        $name:ident: $problem:expr, $($anchor:literal => $code:literal),+, [$($cause:literal),+];
    )*) => {$(
        $(#[$attribute])*
        #[test]
        fn $name() {
            let edits = [$($crate::anchor::Edit { anchor: $anchor, code: $code }),+];
            $crate::caught($problem, &edits, &[$($cause),+]);
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

/// What a fault is tried on: what the unchanged kernels solve.
#[derive(Clone, Copy)]
enum Problem {
    /// Cases of operations.
    Cases(fn() -> Cases),
    /// Test kernels, and what panics unless they do what they should.
    Probe { kernels: &'static [&'static str], run: fn(&Device) },
}

impl Problem {
    /// All kernels that the plans look up.
    fn kernels(self) -> Vec<String> {
        match self {
            Self::Cases(cases) => {
                let device = emulated(0);
                let cases = cases();
                let kernels = cases.iter().flat_map(|case| case.kernels(&device).expect("kernels of a case"));
                kernels.collect::<BTreeSet<_>>().into_iter().collect()
            }
            Self::Probe { kernels, .. } => kernels.iter().map(|&kernel| kernel.to_owned()).collect(),
        }
    }

    /// The first thing that is wrong.
    fn solve(self, device: &Device) -> Result<(), String> {
        match self {
            Self::Cases(cases) => {
                let cases = cases();
                let mut solved =
                    cases.iter().map(|case| attempt(case.draw()?, device, memory_of(&case.name())));
                solved.try_for_each(|ran| ran.map(drop)).map_err(|error| format!("{error:#}"))
            }
            Self::Probe { run, .. } => catch_unwind(AssertUnwindSafe(|| run(device))).map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned())).unwrap_or_default()
            }),
        }
    }
}

/// Plants the fault, runs every seed, and demands one of the causes in every message.
fn caught(problem: Problem, edits: &[Edit], causes: &[&str]) {
    let library = Library::with(&problem.kernels(), edits);
    for seed in 0..SEEDS {
        let solved = problem.solve(&library.device(seed));
        let text = solved.expect_err("the fault went unnoticed");
        assert!(
            causes.iter().any(|cause| text.contains(cause)),
            "seed {seed}: expected one of {causes:?} in: {text}"
        );
        println!("seed {seed}: {text}");
    }
}

/// The unchanged sources, through the same build: nothing is found.
#[test]
fn no_fault() {
    let families = [
        #[cfg(feature = "probes")]
        hopper::problems(),
        gemm::problems(),
        quant::problems(),
        router::problems(),
        moe::problems(),
        mla::problems(),
    ];
    families.concat().par_iter().for_each(|problem| {
        let library = Library::with(&problem.kernels(), &[]);
        (0..SEEDS).for_each(|seed| problem.solve(&library.device(seed)).expect("nothing is planted"));
    });
}
