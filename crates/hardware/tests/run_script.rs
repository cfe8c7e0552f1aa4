//! `run.sh` with planted bad steps: what it leaves is whole, whatever the steps do.

#![cfg(unix)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SCRIPT: &str = include_str!("../run/run.sh");

/// A host with the script and a table of steps.
struct Host(tempfile::TempDir);

impl Host {
    fn new(steps: &str) -> Self {
        let host = tempfile::tempdir().unwrap();
        let script = host.path().join("run.sh");
        fs::write(&script, SCRIPT).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(host.path().join("steps.txt"), steps).unwrap();
        Self(host)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.0.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut script = Command::new(self.0.path().join("run.sh"));
        script.args(arguments).env_remove("REHEARSAL").current_dir("/");
        script
    }
}

/// Lines of a summary by name; a step that stands there twice is an error.
fn summary(out: &Path) -> HashMap<String, Value> {
    let mut steps = HashMap::new();
    for line in fs::read_to_string(out.join("summary.ndjson")).unwrap().lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(steps.insert(value["name"].as_str().unwrap().to_owned(), value).is_none(), "{line}");
    }
    steps
}

fn files(out: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const BAD_STEPS: &str = r#"
# name seconds when rehearsed command
canary      5 always       yes  true
good        5 always       yes  echo "devices: $DEEPSEEK_KERNELS_TEST_DEVICES"; echo row > $OUT/timings.csv
hang        1 always       yes  sleep 1000
crash       5 always       yes  kill -SEGV $$
stubborn    1 always       yes  trap "" TERM; sleep 1000 & wait; sleep 1000
failing     5 always       yes  printf 'failures:\n    gate::a\n    gate::b\n'; exit 101
piped       5 always       yes  false | cat
unfinished  5 always       yes  exit 75
wanting     5 always       yes  echo 'ncu "5" is not here'; exit 77
diagnosis   5 failed:hang  yes  echo diagnosed
idle        5 failed:good  yes  echo never
driver      5 always       yes  echo 'its own words' > $CUDA_LOG_FILE
input       5 always       yes  cat
"#;

#[test]
fn bad_steps_do_not_spoil_the_others() {
    let host = Host::new(BAD_STEPS);
    let out = host.folder("out");
    let output = host.run(&["60", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    let steps = summary(&out);
    let expected = [
        ("good", 0),
        ("hang", 124),
        ("crash", 139),
        ("stubborn", 137),
        ("failing", 101),
        ("piped", 1),
        ("unfinished", 75),
        ("diagnosis", 0),
        ("driver", 0),
        ("input", 0),
    ];
    for (name, code) in expected {
        assert_eq!(steps[name]["exit"], code, "{name}");
    }
    assert_eq!(steps["wanting"]["skipped"], "ncu \"5\" is not here");
    assert_eq!(steps["failing"]["failed"], serde_json::json!(["gate::a", "gate::b"]));
    assert_eq!(steps.len(), expected.len() + 1, "{steps:?}");

    assert_eq!(files(&out), ["log.txt", "results.tar.gz", "summary.ndjson", "timings.csv"]);
    let log = fs::read_to_string(out.join("log.txt")).unwrap();
    for text in ["devices: gpu", "=== hang: exit 124", "--- canary after crash", "its own words", "diagnosed"]
    {
        assert!(log.contains(text), "{text}: {log}");
    }
    let packed = Command::new("tar").arg("-tzf").arg(out.join("results.tar.gz")).output().unwrap();
    assert!(String::from_utf8_lossy(&packed.stdout).contains("./stubborn.txt"), "{packed:?}");
}

#[test]
fn a_second_call_continues() {
    let host = Host::new(
        "good 5 always yes echo again >> good.txt\n\
         bad 5 always yes test -e repaired\n\
         rest 5 always yes echo \"$EARLIER_CSV\"; exit 75\n",
    );
    let (first, second) = (host.folder("first"), host.folder("second"));
    fs::write(first.join("timings.csv"), "").unwrap();
    assert_eq!(host.run(&["60", first.to_str().unwrap()]).status.code(), Some(1));
    fs::write(host.0.path().join("repaired"), "").unwrap();
    let output = host.run(&["60", second.to_str().unwrap(), first.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let steps = summary(&second);
    assert_eq!(steps["good"]["skipped"], "passed before");
    assert_eq!(steps["bad"]["exit"], 0);
    assert_eq!(steps["rest"]["exit"], 75);
    assert_eq!(fs::read_to_string(host.0.path().join("good.txt")).unwrap(), "again\n");
    let log = fs::read_to_string(second.join("log.txt")).unwrap();
    assert!(log.contains(&format!("--earlier {}/timings.csv", first.display())), "{log}");
}

#[test]
fn a_gpu_that_does_not_answer_ends_it_all() {
    let host = Host::new(
        "canary 1 always yes sleep 1000\na 5 always yes false\nb 5 always yes true\nc 5 always yes false\n\
         d 5 always yes true\n",
    );
    let out = host.folder("out");
    host.run(&["60", out.to_str().unwrap()]);
    let steps = summary(&out);
    assert_eq!(steps["b"]["exit"], 0);
    assert_eq!(steps["d"]["skipped"], "the GPU does not answer");
}

#[test]
fn the_deadline_holds() {
    let host = Host::new("a 600 always yes sleep 600\nb 600 always yes true\n");
    let out = host.folder("out");
    let begin = Instant::now();
    host.run(&["16", out.to_str().unwrap()]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    let steps = summary(&out);
    assert_eq!(steps["a"]["exit"], 124);
    assert_eq!(steps["b"]["skipped"], "no time left");
}

#[test]
fn a_run_that_is_cut_off_leaves_whole_lines() {
    let host =
        Host::new("a 5 always yes echo a\nb 60 always yes echo > begun; sleep 60\nc 5 always yes echo c\n");
    let out = host.folder("out");
    let mut run = host.command(&["120", out.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !host.0.path().join("begun").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the step did not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(summary(&out).len(), 1);
    assert_eq!(summary(&out)["a"]["exit"], 0);
    let packed = Command::new("tar").arg("-tzf").arg(out.join("results.tar.gz")).output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
}

#[test]
fn bad_arguments_are_refused() {
    let host = Host::new("");
    let out = host.folder("out");
    let out = out.to_str().unwrap();
    for (arguments, said) in [
        (vec![], "expected seconds, got ''"),
        (vec!["soon", out], "expected seconds, got 'soon'"),
        (vec!["60", "nowhere"], "expected a folder, got 'nowhere'"),
        (vec!["60", out, out], "has no summary.ndjson"),
    ] {
        let output = host.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    assert_eq!(files(Path::new(out)), [""; 0]);
}
