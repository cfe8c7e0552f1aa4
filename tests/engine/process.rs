//! Tests in a process of their own.

use std::env;
use std::process::Command;

/// Set in such a process.
const ALONE: &str = "DEEPSEEK_KERNELS_TEST_ALONE";
const STRICT: &str = "FAKE_CUDA_STRICT";

/// Whether a test passes alone with these in its environment, and what it says.
pub fn alone(test: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "--nocapture", "--test-threads=1", test])
        .env_remove(STRICT)
        .env("DEEPSEEK_KERNELS_TEST_DEVICES", "gpu")
        .envs(variables.iter().copied())
        .output()
        .expect("this program runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("running 1 test"), "there is no test {test}");
    (output.status.success(), text)
}

/// Runs the calling test in another process, which leaves in its context what no strict driver forgives; true when that is
/// done, false in that process.
pub fn elsewhere(test: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return false;
    }
    let (passed, text) = alone(test, &[(ALONE, "1")]);
    assert!(passed, "{test}:\n{text}");
    true
}

/// A strict driver, which executes nothing before it must.
pub const LAZY: [(&str, &str); 2] = [(STRICT, "1"), ("FAKE_CUDA_MODE", "lazy")];
