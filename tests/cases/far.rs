//! Rows so far apart that 32 bits count neither the elements nor the bytes between two of them: of every operand of every
//! kernel, read or written. What nobody touches takes no memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use check::case::{Case, pass, pass_in};
use check::devices::{FAR, emulators};
use check::families;
use check::memory::{Align, Arena, Memory};
use check::mla::ROPE;
use check::mla::rope::{Columns, RopeCase, RopeRun};
use deepseek_kernels::mla::{Heads, HeadsMut, RopeArgs};
use deepseek_kernels::{Device, Error};

/// Fails unless a kernel that counts the scales of B from row to row with 32 bits refuses more, before anything is written.
fn refuses_scales_too_far_apart(case: &dyn Case, device: &Device, memory: Memory) {
    let problem = case.draw().expect("inputs");
    let mut prepared = problem.prepare(&mut Arena::new(device, memory)).expect("operands");
    let before = prepared.writable().expect("what it writes");
    match prepared.launch(device.stream().expect("a stream")) {
        Err(Error::Spec { what, .. }) if what.starts_with("pitch of ") => {}
        other => panic!("{}: {other:?}", case.name()),
    }
    assert!(prepared.writable().expect("what it writes") == before, "{}: something was written", case.name());
}

/// The first case of every form of an operation: rows 2^31 elements apart, which a signed number cannot count, and 2^32.
#[test]
fn rows_far_apart() {
    let mut cases = families::all(|family| (family.smoke)());
    let mut seen = BTreeSet::new();
    cases.retain(|case| seen.insert(case.title()));
    let multiplies = ["fp8_gemm", "grouped_fp8_gemm", "gate_up_swiglu", "moe_layer"];
    for device in emulators([FAR]) {
        for case in &cases {
            pass_in(&**case, &device, Memory::Far(0));
            if multiplies.contains(&case.operation()) {
                refuses_scales_too_far_apart(&**case, &device, Memory::Far(1));
            } else {
                pass_in(&**case, &device, Memory::Far(1));
            }
        }
    }
}

/// Rotary embedding takes heads at a stride of their own.
#[test]
fn heads_far_apart() {
    let (tokens, heads) = (3, 4);
    let case = RopeCase { from: Columns::ALL, to: Columns::ALL, ..RopeCase::new(tokens, heads, 50) };
    for device in emulators([FAR]) {
        let expected = pass(&case, &device);
        let problem = Arc::new(case.problem().expect("inputs"));
        for seed in [0, 1] {
            let mut arena = Arena::new(&device, Memory::Far(seed));
            let x = arena.input(&problem.x, (tokens * heads, ROPE), Align(16)).expect("x");
            let mut out = arena.output((tokens * heads, ROPE), Align(16)).expect("out");
            let mut run = RopeRun::new(problem.clone(), &mut arena).expect("operands");
            let (x_pitch, out_pitch) = (x.pitch(), out.pitch());
            let args = RopeArgs {
                x: Heads::new(x.slice(), tokens, heads, heads * x_pitch, x_pitch).expect("x"),
                out: HeadsMut::new(out.slice_mut(), tokens, heads, heads * out_pitch, out_pitch)
                    .expect("out"),
                ..run.operands.args().expect("views")
            };
            run.plan.run(device.stream().expect("a stream"), args).expect("launch");
            let check = out.equals("bits", "out", &expected[0].values()).expect("values");
            assert_eq!(check.failure, None);
        }
    }
}
