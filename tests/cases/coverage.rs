//! No kernel is left out: every row of the table has a case, and every source a time.

use std::collections::BTreeSet;

use check::case::Cases;
use check::devices::emulated;
use check::families::{self, Extent};
use deepseek_kernels::table::{Kernel, kernels};

/// The kernels that cases launch.
fn launched(cases: &Cases) -> BTreeSet<String> {
    let device = emulated(0);
    cases.iter().flat_map(|case| case.launched(&device).expect("kernels of a case")).collect()
}

#[test]
fn every_kernel_has_a_case() {
    let launched = launched(&families::all(|family| (family.smoke)()));
    let left_out: Vec<Kernel> = kernels().filter(|kernel| !launched.contains(&kernel.name)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

/// An instance is timed where a plan chooses it; its source, always.
#[test]
fn every_source_is_timed() {
    for extent in [Extent::Full, Extent::Reduced] {
        let launched = launched(&families::all(|family| (family.timed)(extent)));
        let timed: BTreeSet<String> =
            kernels().filter(|kernel| launched.contains(&kernel.name)).map(|kernel| kernel.header).collect();
        let left_out: Vec<Kernel> = kernels().filter(|kernel| !timed.contains(&kernel.header)).collect();
        assert!(left_out.is_empty(), "{extent:?}: {left_out:?}");
    }
}

#[test]
fn no_list_names_a_case_twice() {
    let lists = [
        families::all(|family| (family.smoke)()),
        families::all(|family| (family.timed)(Extent::Full)),
        families::all(|family| (family.timed)(Extent::Reduced)),
    ];
    for cases in lists {
        let names: BTreeSet<String> = cases.iter().map(|case| case.name()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(names.iter().all(|name| !name.contains([' ', ','])), "{names:?}");
    }
}

/// On other schedules of threads and copies, and in memory that lies otherwise, than the tests of an operation draw.
#[test]
fn every_smoke_case_passes() {
    for seed in 0..2 {
        for device in check::devices::seeded([seed]) {
            for case in families::all(|family| (family.smoke)()) {
                check::case::pass_in(&*case, &device, check::memory::Memory::Poisoned(seed));
            }
        }
    }
}
