//! Faults of the host, planted at the seam: the fake driver behaves as though this crate had left out, or got wrong, one
//! kind of call. An engine test must notice, and say why.

use std::process::Command;

use crate::hooks::Hooks;

/// The fault, the test that must fail, and words of the cause, one of which must be told.
const FAULTS: [(&str, &str, &[&str]); 16] = [
    ("no-smem-opt-in", "streams::two_streams_share_their_inputs", &["dynamic shared memory"]),
    ("smem-opt-in-too-large", "streams::two_streams_share_their_inputs", &["asking for shared memory"]),
    ("no-dynamic-smem", "streams::two_streams_share_their_inputs", &["shared"]),
    ("half-the-threads", "streams::two_streams_share_their_inputs", &["threads"]),
    ("null-stream", "streams::a_reader_waits_for_the_writer_of_another_stream", &["unordered"]),
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
    ("zero-element-strides", "streams::two_streams_share_their_inputs", &["tensor map of"]),
    ("misaligned-memory", "streams::two_streams_share_their_inputs", &["tensor map of"]),
    ("param-size", "streams::two_streams_share_their_inputs", &["expected 648 bytes, got 640"]),
    ("capture-wait-outside", "captures::every_mode_of_capture", &["CUDA_ERROR_STREAM_CAPTURE_ISOLATION"]),
];

#[test]
fn faults_of_the_host_are_noticed() {
    let Some(_hooks) = Hooks::needed_by("faults_of_the_host_are_noticed") else { return };
    let this = std::env::current_exe().expect("this program");
    let mut survivors = Vec::new();
    for (fault, test, causes) in FAULTS {
        let output = Command::new(&this)
            .args(["--exact", "--nocapture", "--test-threads=1", test])
            .env("FAKE_CUDA_FAULT", fault)
            .env("FAKE_CUDA_STRICT", "1")
            .env("FAKE_CUDA_MODE", "lazy")
            .env("DEEPSEEK_KERNELS_TEST_DEVICES", "gpu")
            .output()
            .expect("this program runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() {
            survivors.push(format!("{fault}: {test} passed"));
        } else if !causes.iter().any(|cause| text.contains(cause)) {
            survivors.push(format!("{fault}: {test} failed without one of {causes:?}:\n{text}"));
        }
    }
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}
