//! The barriers of every kernel do what they are for, in whatever order its threads, TMA and the tensor core come: see
//! `check::protocol`. The programs are the kernels' own, read off the emulator's operand trace.

#![cfg(has_emulator)]

mod planted;
mod programs;
mod rings;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use check::families::FAMILIES;
use check::protocol::{Explored, explore};
use check::trace::Launch;
use deepseek_kernels::table::kernels;
use rayon::prelude::*;

use programs::programs;

/// Those that fill a kernel's rings every number of times that matters.
fn explored() -> Vec<Launch> {
    FAMILIES.iter().flat_map(|family| (family.explored)()).collect()
}

/// By kernel, the fewest and the most phases of each mbarrier.
type Phases = BTreeMap<String, BTreeMap<String, RangeInclusive<u32>>>;

fn explore_all(launches: &[Launch]) -> Vec<(&str, Explored)> {
    let of = |launch: &Launch| {
        let explored: Result<Vec<Explored>, String> = programs(launch)?.iter().map(explore).collect();
        explored.map_err(|why| format!("{}: {why}", launch.kernel))
    };
    let all: Vec<Result<Vec<Explored>, String>> = launches.par_iter().map(of).collect();
    let each = launches.iter().zip(all).flat_map(|(launch, explored)| {
        explored.unwrap_or_else(|why| panic!("{why}")).into_iter().map(|explored| (&*launch.kernel, explored))
    });
    each.collect()
}

/// Barriers that never are complete more often, or always are once: Q of a prefill is loaded once, and a head without numbers is none.
fn is_bounded(kernel: &str, bar: &str) -> bool {
    kernel.starts_with("mla_prefill") && bar == "q_full[0]" || kernel.starts_with("mla_absorb")
}

#[test]
fn every_protocol_holds_in_every_order() {
    let launches = explored();
    let all = explore_all(&launches);
    let mut phases = Phases::new();
    for (kernel, explored) in &all {
        for (bar, complete) in &explored.phases {
            let of_kernel = phases.entry((*kernel).to_owned()).or_default();
            let range = of_kernel.entry(bar.clone()).or_insert(*complete..=*complete);
            *range = *range.start().min(complete)..=*range.end().max(complete);
        }
    }
    for (kernel, bars) in &phases {
        for (bar, range) in bars.iter().filter(|(bar, _)| !is_bounded(kernel, bar)) {
            assert!(*range.start() == 0 && *range.end() > 1, "{kernel}: {bar} has from {range:?} phases");
        }
    }
    let steps: usize = all.iter().map(|(_, explored)| explored.steps).sum();
    println!(
        "{} programs of {} launches of {} kernels, {steps} steps",
        all.len(),
        launches.len(),
        phases.len()
    );
}

#[test]
fn every_kernel_with_mbarriers_is_explored() {
    let listed: BTreeSet<String> = explored().into_iter().map(|launch| launch.kernel).collect();
    let traced: Vec<Launch> = FAMILIES.iter().flat_map(|family| (family.traced)()).collect();
    for kernel in kernels() {
        let launch =
            traced.iter().find(|launch| launch.kernel == kernel.name).expect("a launch that is traced");
        let has_mbarriers = listed.contains(&kernel.name) || !programs(launch).unwrap().is_empty();
        assert_eq!(
            listed.contains(&kernel.name),
            has_mbarriers,
            "{}: list its launches in `explored`",
            kernel.name
        );
    }
    assert!(
        listed.iter().all(|listed| kernels().any(|kernel| kernel.name == *listed)),
        "a kernel that is none"
    );
}
