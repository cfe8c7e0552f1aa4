//! Mutants of every kernel: each is noticed by a trial of the planted faults, or its reason to live is written down.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::LazyLock;

use check::families::FAMILIES;
use check::planted::anchor::Source;
use check::planted::mutants::{Mutant, mutants};
use libtest_mimic::Trial as Test;

use crate::library::{CUDA, Library, sources};
use crate::{drawn, kernels_of, short, test, trials};

/// Schedules on which a trial may notice it.
const SEEDS: u64 = 2;
/// One in so many is tried with the faults; the others when they are asked for.
const SAMPLE: usize = 199;
/// Where to append what became of each.
const TABLE: &str = "DEEPSEEK_KERNELS_MUTANTS";
/// Mutants that change nothing that counts: `file | line of code | change | why`.
const SURVIVORS: &str = include_str!("survivors.txt");

/// A test for each, all but a sample of them ignored.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![];
    for path in files() {
        for mutant in mutants(&text_of(&path)) {
            let ignored = tests.len() % SAMPLE != 0;
            let name = format!("mutant::{path}:{}::{}", mutant.line, mutant.change.replace(' ', "_"));
            let path = path.clone();
            tests.push(test(name, move || noticed(&path, &mutant)).with_ignored_flag(ignored));
        }
    }
    tests
}

/// The kernels of every family, and what their CTAs do.
fn files() -> Vec<String> {
    let in_folder = |folder: &str| {
        let folder = folder.to_owned();
        let files = fs::read_dir(format!("{CUDA}/{folder}")).expect("a folder of sources");
        let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
        // What tells of a layout is run by no trial.
        let kernels = names.filter(|name| name.ends_with(".cuh") && !name.ends_with("_probe.cuh"));
        kernels.map(move |name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    let families = FAMILIES.iter().map(|family| family.name).chain(["hopper/cta"]);
    let mut files: Vec<String> = families.flat_map(in_folder).collect();
    files.sort();
    files
}

/// The trials whose kernels include a file, those of its own family first.
fn trials_of(path: &str) -> Vec<&'static str> {
    static INCLUDED: LazyLock<Vec<(&'static str, Vec<String>)>> = LazyLock::new(|| {
        let names = trials().into_keys();
        let included = |name| sources(&kernels_of(name)).into_iter().map(|source| source.path).collect();
        names.map(|name| (name, included(name))).collect()
    });
    let family = path.split('/').next().unwrap_or_default();
    let including = INCLUDED.iter().filter(|(_, files)| files.iter().any(|file| file == path));
    let mut names: Vec<&str> = including.map(|(name, _)| *name).collect();
    names.sort_by_key(|name| !short(name).starts_with(family));
    names
}

fn text_of(path: &str) -> String {
    fs::read_to_string(format!("{CUDA}/{path}")).expect("a source file")
}

/// It does not compile, or some trial fails, or it is known to change nothing.
fn noticed(path: &str, mutant: &Mutant) {
    let outcome = outcome(path, mutant);
    tell(path, mutant, &outcome);
    let known = known(path, mutant);
    match (outcome, known) {
        (Outcome::Survived, None) => panic!("`{}`, {}: no trial noticed", mutant.text, mutant.change),
        (Outcome::Noticed { trial, how }, Some(why)) => {
            panic!("{trial} noticed ({how}), though survivors.txt says: {why}")
        }
        _ => {}
    }
}

enum Outcome {
    DoesNotCompile,
    Noticed { trial: String, how: String },
    Survived,
}

fn outcome(path: &str, mutant: &Mutant) -> Outcome {
    let source = Source { path: path.to_owned(), text: mutant.applied(&text_of(path)) };
    for name in trials_of(path) {
        let trial = drawn((name, trials()[name]));
        let Ok(library) = Library::of(&trial.kernels(), &[&source]) else { return Outcome::DoesNotCompile };
        for seed in 0..SEEDS {
            if let Err(how) = trial.solve(&library.device(trial.emulator(seed))) {
                return Outcome::Noticed { trial: short(name), how };
            }
        }
    }
    Outcome::Survived
}

/// Why it may live.
fn known(path: &str, mutant: &Mutant) -> Option<&'static str> {
    let lines = SURVIVORS.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>());
    let mut known = fields.filter_map(|fields| match fields[..] {
        [file, text, change, why] => Some((file, text, change, why)),
        _ => None,
    });
    let found = known.find(|&(file, text, change, _)| {
        (file, text, change) == (path, mutant.text.as_str(), mutant.change.as_str())
    });
    found.map(|(.., why)| why)
}

/// Appends a row to the table that was asked for.
fn tell(path: &str, mutant: &Mutant, outcome: &Outcome) {
    let Some(table) = std::env::var_os(TABLE) else { return };
    let (by, how) = match outcome {
        Outcome::DoesNotCompile => ("-", "does not compile".to_owned()),
        Outcome::Noticed { trial, how } => (trial.as_str(), net(how)),
        Outcome::Survived => ("-", "SURVIVED".to_owned()),
    };
    let row = format!("{path}:{} | {} | {} | {by} | {how}\n", mutant.line, mutant.text, mutant.change);
    let file = OpenOptions::new().create(true).append(true).open(table);
    // One write: rows of other threads stand before it or behind.
    file.and_then(|mut file| file.write_all(row.as_bytes())).expect("the table");
}

/// What noticed it, in few words: a net of the emulator, or an oracle.
fn net(text: &str) -> String {
    const NETS: [(&str, &str); 12] = [
        ("race:", "race detector"),
        ("deadlock", "nothing can move"),
        ("step limit", "no end"),
        ("CPU time", "no end"),
        ("outside", "bounds of memory"),
        ("nothing has written", "state of shared memory"),
        ("in flight", "state of shared memory"),
        ("without a fence", "state of shared memory"),
        ("fence", "rules of fences"),
        ("expect_tx", "rules of mbarriers"),
        ("griddepcontrol", "rules of grids"),
        ("CTA exits", "rules of exits"),
    ];
    if text.contains("on the emulated Hopper") {
        let net = NETS.iter().find(|(words, _)| text.contains(words));
        return net.map_or("rules of the emulator", |(_, net)| net).to_owned();
    }
    text.split(':').next().unwrap_or_default().chars().take(60).collect()
}

/// Every line of the list is of a mutant that there is.
pub fn survivors_exist() {
    let mut there = BTreeSet::new();
    for path in files() {
        let mutants = mutants(&text_of(&path)).into_iter();
        there.extend(mutants.map(|mutant| (path.clone(), mutant.text, mutant.change)));
    }
    for line in SURVIVORS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [file, text, change, _] = fields[..] else { panic!("expected four fields: {line}") };
        let mutant = (file.to_owned(), text.to_owned(), change.to_owned());
        assert!(there.contains(&mutant), "no such mutant: {line}");
    }
}
