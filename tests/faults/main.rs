//! Planted faults: every one is caught, on every seed, with a message that names the cause.

mod diagnosed;
mod library;
mod mutants;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};

use check::devices::emulated;
use check::families::FAMILIES;
use check::planted::{Drawn, Fault, Trial, panic_text};
use deepseek_kernels::table::{Kernel, kernels};
use libtest_mimic::{Arguments, Trial as Test, run};

use diagnosed::{DIAGNOSED, diagnosed};
use library::Library;

const SEEDS: u64 = 4;

/// A test for each fault, and for what they are tried on.
fn main() -> ExitCode {
    // What a test panics with is told as its failure; a planted probe's panic is what is wanted.
    std::panic::set_hook(Box::new(|_| {}));
    let mut tests: Vec<Test> =
        faults().into_iter().map(|fault| test(short(fault.name), move || caught(&fault))).collect();
    tests.push(test("every_source_is_tried".to_owned(), every_source_is_tried));
    tests.push(test("every_diagnosed_fault_is_planted".to_owned(), every_diagnosed_fault_is_planted));
    tests.extend(trials().into_iter().map(|trial| {
        let name = format!("no_fault::{}", short(trial.0));
        test(name, move || no_fault(trial))
    }));
    tests.push(test("every_survivor_is_a_mutant".to_owned(), mutants::survivors_exist));
    tests.extend(mutants::tests());
    run(&Arguments::from_args(), tests).exit_code()
}

/// A test in a thread of its own: what an emulator keeps for a thread goes with it.
fn test(name: String, body: impl FnOnce() + Send + 'static) -> Test {
    Test::test(name, || {
        std::thread::spawn(body).join().map_err(|panic| panic_text(&*panic).to_owned().into())
    })
}

fn faults() -> Vec<Fault> {
    let faults = FAMILIES.iter().flat_map(|family| (family.faults)());
    #[cfg(feature = "probes")]
    let faults = faults.chain(check::probes::FAULTS.iter().copied());
    faults.collect()
}

/// A path in the crate of cases, without what every path has.
fn short(path: &str) -> String {
    path.split_once("::").map_or(path, |(_, path)| path).replace("::faults::", "::")
}

/// What faults are tried on.
fn trials() -> BTreeMap<&'static str, Trial> {
    faults().into_iter().map(|fault| fault.trial).collect()
}

/// A trial, once for all faults that are tried on it.
fn drawn((name, trial): (&'static str, Trial)) -> Arc<Drawn> {
    type All = Mutex<BTreeMap<&'static str, Arc<OnceLock<Arc<Drawn>>>>>;
    static ALL: All = Mutex::new(BTreeMap::new());
    let place = ALL.lock().expect("nobody panics here").entry(name).or_default().clone();
    place.get_or_init(|| Arc::new(trial.drawn())).clone()
}

/// What a trial's plans look up.
fn kernels_of(name: &'static str) -> Vec<String> {
    drawn((name, trials()[name])).kernels()
}

/// Plants the fault, runs every seed, and demands one of the causes in every message.
fn caught(&Fault { name, trial, edits, causes }: &Fault) {
    let (tried, trial) = (trial.1, drawn(trial));
    let library = Library::with(&trial.kernels(), edits);
    diagnosed(&short(name), tried, &emulated(0), &library.device(trial.emulator(0)));
    for seed in 0..SEEDS {
        let solved = trial.solve(&library.device(trial.emulator(seed)));
        let text = solved.expect_err("the fault went unnoticed");
        assert!(
            causes.iter().any(|cause| text.contains(cause)),
            "seed {seed}: expected one of {causes:?} in: {text}"
        );
    }
}

/// No kernel is left out, though of its instances a few may do.
fn every_source_is_tried() {
    let tried: Vec<String> = trials().into_iter().flat_map(|trial| drawn(trial).kernels()).collect();
    let headers: BTreeSet<String> =
        kernels().filter(|kernel| tried.contains(&kernel.name)).map(|kernel| kernel.header).collect();
    let left_out: Vec<Kernel> = kernels().filter(|kernel| !headers.contains(&kernel.header)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}

/// The list of diagnoses names faults that there are.
fn every_diagnosed_fault_is_planted() {
    let planted: BTreeSet<String> = faults().iter().map(|fault| short(fault.name)).collect();
    assert!(DIAGNOSED.iter().all(|(name, ..)| planted.contains(*name)));
}

/// The unchanged sources, through the same build: nothing is found.
fn no_fault(trial: (&'static str, Trial)) {
    let trial = drawn(trial);
    let library = Library::with(&trial.kernels(), &[]);
    let solve = |seed| trial.solve(&library.device(trial.emulator(seed)));
    (0..SEEDS).for_each(|seed| solve(seed).expect("nothing is planted"));
}
