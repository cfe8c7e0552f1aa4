//! Faults of the host, planted at the seam: the fake driver behaves as though this crate had left out, or got wrong, one
//! kind of call. An engine test must notice, and say why.

use crate::hooks::Hooks;
use crate::process::{LAZY, alone};

/// The fault, the test that must fail, and words of the cause, one of which must be told.
const FAULTS: [(&str, &str, &[&str]); 16] = [
    ("no-smem-opt-in", "streams::two_streams_share_their_inputs", &["dynamic shared memory"]),
    ("smem-opt-in-too-large", "streams::two_streams_share_their_inputs", &["asking for shared memory"]),
    ("no-dynamic-smem", "streams::two_streams_share_their_inputs", &["shared"]),
    ("half-the-threads", "streams::two_streams_share_their_inputs", &["threads"]),
    (
        "null-stream",
        "streams::a_reader_waits_for_the_writer_of_another_stream",
        &["elements are wrong", "unordered"],
    ),
    ("context-not-bound", "contexts::threads", &["CUDA_ERROR_INVALID_CONTEXT"]),
    ("foreign-context", "streams::two_streams_share_their_inputs", &["another context"]),
    ("event-wait-dropped", "streams::a_writer_waits_for_the_readers_of_other_streams", &["unordered"]),
    ("event-record-dropped", "streams::a_writer_waits_for_the_readers_of_other_streams", &["unordered"]),
    (
        "sync-dropped",
        "lifetimes::the_error_words_outlive_the_kernels",
        &["unload-in-use", "still used", "in-use"],
    ),
    ("error-word-pageable", "words::faults_are_told_once", &["cuMemFreeHost", "ILLEGAL_ADDRESS", "illegal"]),
    ("early-free", "streams::memory_used_elsewhere_freed_and_given_out_again", &["freed"]),
    ("zero-element-strides", "streams::two_streams_share_their_inputs", &["an element stride must be"]),
    ("misaligned-memory", "streams::two_streams_share_their_inputs", &["aligned to 16 bytes"]),
    ("param-size", "streams::two_streams_share_their_inputs", &["OtherKernels"]),
    ("capture-wait-outside", "captures::every_mode_of_capture", &["CUDA_ERROR_STREAM_CAPTURE_ISOLATION"]),
];

#[test]
fn faults_of_the_host_are_noticed() {
    let Some(_hooks) = Hooks::needed_by("faults_of_the_host_are_noticed") else { return };
    let mut survivors = Vec::new();
    for (fault, test, causes) in FAULTS {
        let (passed, text) = alone(test, &[LAZY[0], LAZY[1], ("FAKE_CUDA_FAULT", fault)]);
        if passed {
            survivors.push(format!("{fault}: {test} passed"));
        } else if !causes.iter().any(|cause| text.contains(cause)) {
            survivors.push(format!("{fault}: {test} failed without one of {causes:?}:\n{text}"));
        }
    }
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}

/// Without a fault the same tests pass, each alone: what the table proves is due to the faults.
#[test]
fn without_a_fault_they_pass() {
    let Some(_hooks) = Hooks::needed_by("without_a_fault_they_pass") else { return };
    let mut tests = FAULTS.map(|(_, test, _)| test).to_vec();
    tests.sort_unstable();
    tests.dedup();
    for test in tests {
        let (passed, text) = alone(test, &LAZY);
        assert!(passed, "{test}:\n{text}");
    }
}

#[test]
fn a_driver_too_old_is_named() {
    let Some(_hooks) = Hooks::needed_by("a_driver_too_old_is_named") else { return };
    let (passed, text) = alone("contexts::a_device_twice", &[("FAKE_CUDA_DRIVER_VERSION", "12040")]);
    let expected = "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.4";
    assert!(!passed && text.contains(expected), "{text}");
}
