//! Options that make no sense, and a device that is not there.

use deepseek_kernels::Device;

use crate::program::verify;

fn wrong(arguments: &[&str], message: &str) {
    let run = verify(arguments);
    assert!(run.stderr.contains(message), "{}", run.stderr);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

#[test]
fn a_pattern_needs_a_file() {
    wrong(&["--tensor", "x"], "--weights <MODEL>");
}

#[test]
fn a_file_and_shapes_exclude_each_other() {
    wrong(&["--weights", "x", "--shapes", "8x128"], "cannot be used with");
}

#[test]
fn a_pattern_that_does_not_parse() {
    wrong(&["--weights", "x", "--tensor", "("], "unclosed group");
}

#[test]
fn a_shape_that_the_kernels_cannot_do() {
    wrong(&["--shapes", "8x100"], "k must be a multiple of 128 above 0, got 100");
}

#[test]
fn a_shape_in_capitals() {
    let run = verify(["--device", "emulated", "--shapes", "8X128", "--m", "1"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn no_rows() {
    wrong(&["--m", "0"], "0 is not in 1..=65536");
}

#[test]
fn a_gpu_that_is_not_there() {
    match Device::open_gpu(0) {
        Ok(_) => eprintln!("SKIPPED: there is a GPU"),
        Err(error) => wrong(&["--device", "gpu"], &format!("error: no device to run on: {error}\n")),
    }
}
