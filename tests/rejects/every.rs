//! Every operand of every operation, one wrong at a time: refused before anything is written, whatever the operation is.

use std::collections::BTreeSet;

use check::case::{Case, Cases};
use check::devices::emulated;
use check::families;
use check::memory::{Arena, Flaw, Memory};
use deepseek_kernels::{Error, Stream};

/// An operand of any shape: what it lacks is nobody's.
const ANY_SHAPE: (&str, usize) = ("swiglu_quantize", 0);

/// The first case of every form of an operation, small enough for the emulator.
fn cases() -> Cases {
    let mut cases = families::all(|family| (family.smoke)());
    let mut seen = BTreeSet::new();
    cases.retain(|case| seen.insert(case.title()));
    cases
}

/// Whether an operand could have the flaw.
fn refused(case: &dyn Case, operand: usize, flaw: Flaw) -> bool {
    let device = emulated(0);
    let mut arena = Arena::flawed(&device, operand, flaw);
    let problem = case.draw().expect("inputs");
    let mut prepared = problem.prepare(&mut arena).expect("operands");
    if arena.is_flawless() {
        return false;
    }
    let what = format!("operand {operand} of {}, {flaw:?}", case.name());
    let before = prepared.writable().expect("what it writes");
    match prepared.launch(Stream::Emulated) {
        Err(Error::View(_) | Error::Operand { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
    assert!(prepared.writable().expect("what it writes") == before, "{what}: something was written");
    true
}

#[test]
fn operands_that_are_short_or_misplaced() {
    let device = emulated(0);
    for case in cases() {
        let mut arena = Arena::new(&device, Memory::Plain);
        case.draw().and_then(|problem| problem.prepare(&mut arena)).expect("operands");
        for flaw in [Flaw::Short, Flaw::Address, Flaw::Pitch] {
            let operands = (0..arena.placed()).filter(|&operand| (case.operation(), operand) != ANY_SHAPE);
            let minded = operands.filter(|&operand| refused(&*case, operand, flaw)).count();
            assert!(minded > 0 || flaw != Flaw::Short, "{}: nothing to be short of", case.name());
        }
    }
}
