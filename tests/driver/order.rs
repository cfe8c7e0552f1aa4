//! Order: what streams, events and waits of the host do not order is seen in every order of execution, and what they do
//! order is never blamed.

use crate::api::{Driver, MODES, code};
use crate::scene::{BYTES, Scene, matrix};

struct Pair {
    what: &'static str,
    /// What the note says.
    note: &'static str,
    /// `ordered`: with the event or the wait between the two.
    run: fn(&Scene, ordered: bool),
}

/// Makes the second stream wait for the first.
fn chain(s: &Scene, from: u64, to: u64) {
    s.ok("cuEventRecord", &[s.event, from]);
    s.ok("cuStreamWaitEvent", &[to, s.event, 0]);
}

const PAIRS: &[Pair] = &[
    Pair {
        what: "a kernel reads what another stream uploads",
        note: "transpose_scales",
        run: |s, ordered| {
            assert_eq!(s.upload(s.other, s.input, &matrix(1).0), code::SUCCESS);
            if ordered {
                chain(s, s.other, s.stream);
            }
            assert_eq!(s.launch(s.stream), code::SUCCESS);
        },
    },
    Pair {
        what: "a copy reads what a kernel of another stream writes",
        note: "a copy to the host",
        run: |s, ordered| {
            s.ok("cuMemsetD8Async", &[s.input, 0, BYTES, s.stream]);
            assert_eq!(s.launch(s.stream), code::SUCCESS);
            if ordered {
                chain(s, s.stream, s.other);
            }
            s.download(s.other, s.output);
        },
    },
    Pair {
        what: "an upload overwrites what a kernel of another stream reads",
        note: "a copy to the device",
        run: |s, ordered| {
            assert_eq!(s.launch(s.stream), code::SUCCESS);
            if ordered {
                chain(s, s.stream, s.other);
            }
            assert_eq!(s.upload(s.other, s.input, &matrix(2).0), code::SUCCESS);
        },
    },
    Pair {
        what: "two streams set the same memory",
        note: "a memset",
        run: |s, ordered| {
            s.ok("cuMemsetD8Async", &[s.output, 1, BYTES, s.stream]);
            if ordered {
                s.ok("cuStreamSynchronize", &[s.stream]);
            }
            s.ok("cuMemsetD8Async", &[s.output, 2, BYTES, s.other]);
        },
    },
    Pair {
        what: "memory is freed on another stream than its last user's",
        note: "the free of allocation",
        run: |s, ordered| {
            let memory = s.get("cuMemAllocAsync", &[BYTES, s.stream]);
            chain(s, s.stream, s.other);
            s.ok("cuMemsetD8Async", &[memory, 0, BYTES, s.stream]);
            if ordered {
                chain(s, s.stream, s.other);
            }
            s.ok("cuMemFreeAsync", &[memory, s.other]);
            // In the order of calls, so that the memory is there whoever is first.
            s.ok("cuStreamSynchronize", &[s.stream]);
        },
    },
    Pair {
        what: "a non-blocking stream reads what the legacy stream writes",
        note: "a memset",
        run: |s, ordered| {
            s.ok("cuMemsetD8Async", &[s.input, 1, BYTES, 0]);
            if ordered {
                chain(s, 0, s.stream);
            }
            assert_eq!(s.launch(s.stream), code::SUCCESS);
        },
    },
    Pair {
        what: "a replay reads what another stream uploads",
        note: "transpose_scales",
        run: |s, ordered| {
            s.capture(s.stream, 0);
            assert_eq!(s.launch(s.stream), code::SUCCESS);
            let exec = s.instantiate(s.stream);
            assert_eq!(s.upload(s.other, s.input, &matrix(3).0), code::SUCCESS);
            if ordered {
                chain(s, s.other, s.stream);
            }
            s.ok("cuGraphLaunch", &[exec, s.stream]);
            s.ok("cuGraphExecDestroy", &[exec]);
        },
    },
];

#[test]
fn a_missing_dependency_is_always_seen_and_a_present_one_never() {
    for mode in MODES {
        let driver = Driver::init(mode);
        for pair in PAIRS {
            for ordered in [false, true] {
                let scene = Scene::new(&driver);
                (pair.run)(&scene, ordered);
                scene.call("cuCtxSynchronize", &[]);
                drop(scene);
                let problems = driver.take_problems();
                let seen = problems
                    .iter()
                    .any(|problem| problem.contains("note `unordered`") && problem.contains(pair.note));
                assert_eq!(seen, !ordered, "{}, {mode:?}: {problems:?}", pair.what);
                assert!(!ordered || problems.is_empty(), "{}, {mode:?}: {problems:?}", pair.what);
            }
        }
    }
}

/// Streams may read the same memory, and write parts of one allocation.
#[test]
fn what_need_not_be_ordered_is_not_blamed() {
    for mode in MODES {
        let driver = Driver::init(mode);
        let s = Scene::new(&driver);
        let (rows, columns) = matrix(4);
        let both = s.get("cuMemAlloc_v2", &[2 * BYTES]);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        chain(&s, s.stream, s.other);
        for (stream, out) in [(s.stream, both), (s.other, both + BYTES)] {
            let mut parameters = s.parameters();
            parameters.out = out;
            assert_eq!(s.launch_with(stream, parameters), code::SUCCESS);
        }
        assert_eq!(s.download(s.stream, both), columns);
        assert_eq!(s.download(s.other, both + BYTES), columns);
        assert_eq!(driver.take_problems(), [""; 0], "{mode:?}");
    }
}
