//! Starting the program.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A finished run.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_deepseek-kernels"))
}

pub fn verify<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Run {
    finished(program().arg("verify").args(arguments).output().expect("the program starts"))
}

pub fn finished(output: Output) -> Run {
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

/// Runs on the emulator, where all that is checked passes, and returns the exit code and the parsed `--json` file.
pub fn reported(folder: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let json = folder.join("report.json");
    let run = verify(
        arguments
            .iter()
            .map(PathBuf::from)
            .chain(["--device", "emulated", "--json"].map(PathBuf::from).into_iter().chain([json.clone()])),
    );
    assert_eq!(run.stderr, "", "{}", run.stdout);
    let report: Value =
        serde_json::from_slice(&fs::read(json).expect("the report exists")).expect("the report is JSON");
    assert_eq!(report["failed"], 0, "{report}");
    (run.code, report)
}

/// As [`reported`], where everything can be checked.
pub fn verified(folder: &Path, arguments: &[&str]) -> Value {
    let (code, report) = reported(folder, arguments);
    assert_eq!(code, Some(0), "{report}");
    report
}

pub fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}
