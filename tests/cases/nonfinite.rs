//! No Inf and no NaN vanishes: put into an input, it shows in an output, or it is reported.

use std::collections::BTreeSet;
use std::sync::Arc;

use check::case::{Case, Problem};
use check::devices::{FAR, emulators};
use check::families;
use check::memory::{Arena, Output, Spoilt};
use deepseek_kernels::{DataFaults, Device, Error};
use oracles::mla::HeadColumns;
use rayon::prelude::*;

/// What a run gave and told.
#[derive(PartialEq)]
struct Outcome {
    outputs: Vec<Output>,
    faults: DataFaults,
}

/// Of a run on finite inputs but for an element, if there is one to be spoilt; and how many inputs there are. Thousands run: on
/// machines that check no state and no race, which the tests of each operation do.
fn run(problem: &Arc<dyn Problem>, spoilt: Option<Spoilt>) -> Option<(Outcome, usize)> {
    let device = Device::emulated_with(FAR).expect("the tests need a C++ compiler");
    let mut arena = Arena::finite(&device, spoilt);
    let mut prepared = problem.clone().prepare(&mut arena).expect("operands");
    if arena.is_unspoilt() {
        return None;
    }
    prepared.launch(device.stream().expect("a stream")).expect("a launch");
    let outcome = Outcome { outputs: prepared.outputs().expect("outputs"), faults: told(&device) };
    Some((outcome, arena.inputs()))
}

fn told(device: &Device) -> DataFaults {
    match device.poll_error() {
        Ok(()) => DataFaults::NONE,
        Err(Error::Data(faults)) => faults,
        Err(error) => panic!("{error}"),
    }
}

impl Outcome {
    /// An element is Inf or NaN that was none, or a fault is told that was not.
    fn shows(&self, before: &Self) -> bool {
        let told = self.faults | before.faults != before.faults;
        let pairs = self.outputs.iter().zip(&before.outputs);
        told || pairs
            .flat_map(|(now, before)| now.nonfinite().into_iter().zip(before.nonfinite()))
            .any(|(now, before)| now && !before)
    }
}

/// What may vanish, as `docs/numerics.md` ("Inf and NaN") says.
fn by_rule(case: &dyn Case, Spoilt { input, element, value }: Spoilt) -> bool {
    let negative = value == f32::NEG_INFINITY;
    match case.operation() {
        // The bias of an expert that is left out; hidden states of padding.
        "gate" if negative && input == 2 => true,
        "moe_layer" if negative && input == 8 => true,
        "gate" | "gate_map" => input == 1 && case.name().contains("_mask"),
        "moe_layer" => input == 6 && case.name().contains("_mask"),
        // The logarithm of a part without keys.
        "merge_states" => negative && matches!(input, 1 | 3),
        // Keys: an infinite score may be -Inf for every row that sees it, and then has weight 0. Of projected keys and values
        // those of a head lie beside each other.
        "mla_prefill" if value.is_infinite() => {
            let wide = case.name().contains("_n192v256");
            let columns = if wide { HeadColumns::GLM_5 } else { HeadColumns::DEEPSEEK_V3 };
            match case.name().contains("_joined") {
                true => input == 1,
                false => input == 2 || (input == 1 && element % columns.rows() < columns.nope),
            }
        }
        _ => false,
    }
}

/// What vanishes of what is put into an input.
fn vanished(case: &dyn Case, problem: &Arc<dyn Problem>, before: &Outcome, input: usize) -> Vec<String> {
    const ELEMENTS: usize = 3;
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let places = (0..ELEMENTS * values.len()).map(|i| (values[i % values.len()], (i + 1) * 2_654_435_761));
    let vanishes = |&(value, element): &(f32, usize)| {
        let spoilt = Spoilt { input, element, value };
        let Some((after, _)) = run(problem, Some(spoilt)) else { return false };
        // What no other value changes either is not read.
        let other =
            |value| run(problem, Some(Spoilt { value, ..spoilt })).is_some_and(|(it, _)| it != *before);
        let matters = || after != *before || [3.0, -2.0].into_iter().any(other);
        !after.shows(before) && !by_rule(case, spoilt) && matters()
    };
    let say = |(value, element)| format!("{}: {value} in element {element} of input {input}", case.name());
    places.filter(vanishes).map(say).collect()
}

#[test]
fn no_infinity_and_no_nan_vanishes() {
    if emulators([FAR]).is_empty() {
        return;
    }
    // Of every form of an operation one case: what a kernel's instances share is all that counts here.
    let mut cases = families::all(|family| (family.smoke)());
    let mut seen = BTreeSet::new();
    cases.retain(|case| seen.insert(case.title()));
    let wrong = cases.par_iter().flat_map_iter(|case| {
        let problem = case.draw().expect("inputs");
        let (before, inputs) = run(&problem, None).expect("a run");
        assert!(!before.faults.nonfinite_input() && !before.faults.nonfinite_score(), "{}", case.name());
        (0..inputs).flat_map(|input| vanished(&**case, &problem, &before, input)).collect::<Vec<_>>()
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{} vanish:\n{}", wrong.len(), wrong.join("\n"));
}
