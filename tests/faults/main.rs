//! Faults planted in the real kernels: every one is caught, on every seed, with a message that names the cause.
//!
//! A fault is an edit of the sources, anchored on a few of their tokens (`anchor.rs`). The changed kernel is compiled
//! into an emulator of its own and run on a problem that the unchanged kernel solves. What the emulator reports, or
//! which elements are wrong, must contain one of the texts given.

use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// What a fault is tried on.
#[derive(Clone, Copy)]
struct Problem {
    /// All kernels that the plans of `run` look up.
    kernels: &'static [&'static str],
    /// Runs and judges; panics with the report, or with the first wrong element.
    run: fn(&Device),
}

/// Plants the fault, runs every seed, and demands one of the causes in every message.
fn caught(problem: Problem, edits: &[Edit], causes: &[&str]) {
    let library = Library::with(problem.kernels, edits);
    for seed in 0..SEEDS {
        let device = library.device(seed);
        let result = catch_unwind(AssertUnwindSafe(|| (problem.run)(&device)));
        let Err(panic) = result else { panic!("seed {seed}: the fault went unnoticed") };
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned())).unwrap_or_default();
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
    let problems = families.concat();
    problems.par_iter().for_each(|problem| {
        let library = Library::with(problem.kernels, &[]);
        (0..SEEDS).for_each(|seed| (problem.run)(&library.device(seed)));
    });
}
