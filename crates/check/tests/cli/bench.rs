//! `bench`: counts without a GPU, times under the fake driver, and the comparison of two runs.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Run, finished, program};

fn bench(arguments: &[&str]) -> Run {
    finished(program().arg("bench").args(arguments).output().expect("the program starts"))
}

/// Products of few rows, counted.
const COUNTED: [&str; 8] =
    ["--device", "emulated", "--list", "small", "--op", "fp8_gemm", "--shape", "1x2112x256"];

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("a name").to_owned()
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).expect("the file exists")).expect("it is JSON")
}

fn write(path: &str, value: &Value) {
    fs::write(path, value.to_string()).expect("a file");
}

/// Counts of a small product, in a file.
fn counted(folder: &TempDir) -> String {
    let file = path(folder, "counted.json");
    let run = bench(&[&COUNTED[..], &["--json", &file]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("no time was measured"), "{}", run.stdout);
    file
}

fn refused(arguments: &[&str], message: &str) {
    let run = bench(arguments);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.starts_with("error: ") && run.stderr.contains(message), "{}", run.stderr);
}

#[test]
fn the_emulator_counts_and_two_runs_count_the_same() {
    let folder = TempDir::new().unwrap();
    let file = counted(&folder);
    let record = read(&file);
    let row = &record["rows"][0];
    assert_eq!(record["device"]["kind"], "emulated");
    assert_eq!(row["name"], "fp8_gemm/1x2112x256_bf16");
    assert!(row["counts"]["tma_load_bytes"].as_u64() > Some(2112 * 256));
    assert!(row.get("times").is_none());

    let again = bench(&[&COUNTED[..], &["--compare", &file]].concat());
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stdout.contains("compared: 1 SAME, 0 FASTER, 0 SLOWER, 0 AMBIGUOUS; 0 problems"));
}

#[test]
fn more_of_a_count_fails_and_less_of_it_passes() {
    let folder = TempDir::new().unwrap();
    let file = counted(&folder);
    let old = path(&folder, "old.json");
    for (change, code, verdict) in [(-1, 1, "1 SLOWER"), (1, 0, "1 FASTER")] {
        let mut record = read(&file);
        let loads = &mut record["rows"][0]["counts"]["tma_loads"];
        *loads = json!(loads.as_i64().unwrap() + change);
        write(&old, &record);
        let run = bench(&["--compare", &old, "--with", &file]);
        assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(verdict), "{}", run.stdout);
    }
}

/// A run of a GPU that never was: samples made up for this test.
fn made_up(cold: &[f64]) -> Value {
    json!({
        "format": 1, "crate": "deepseek-kernels", "version": "0", "command": ["bench"],
        "device": {"kind": "gpu", "name": "made up", "multiprocessors": 132, "capability": "9.0", "driver": null, "l2_bytes": null},
        "roofs": {"copy": 3e12, "tensor": 1e15},
        "control": {"name": "a/1", "noise": 0.004},
        "rows": [{
            "who": "ours", "operation": "a", "name": "a/1", "title": "A", "shape": "1", "data": "none", "instance": "k",
            "reason": null, "flops": 1000, "bytes": 1000, "worst": 0.5, "failure": null, "counts": null,
            "times": {"cold": {"seconds": cold, "stop": "deviation", "state": null, "disturbed": false}},
        }],
    })
}

#[test]
fn four_verdicts_and_their_exit_codes() {
    let folder = TempDir::new().unwrap();
    let (old, new) = (path(&folder, "old.json"), path(&folder, "new.json"));
    let samples = |from: f64, step: f64| (0..20).map(|i| from + step * f64::from(i)).collect::<Vec<f64>>();
    write(&old, &made_up(&samples(1e-5, 1e-10)));
    for (seconds, code, verdict) in [
        (samples(1e-5, 1e-10), 0, "1 SAME"),
        (samples(0.9e-5, 1e-10), 0, "1 FASTER"),
        (samples(1.1e-5, 1e-10), 1, "1 SLOWER"),
        (samples(0.9e-5, 1e-7), 0, "1 AMBIGUOUS"),
    ] {
        write(&new, &made_up(&seconds));
        let run = bench(&["--compare", &old, "--with", &new]);
        assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(verdict), "{}", run.stdout);
    }
    let mut elsewhere = made_up(&samples(1e-5, 1e-10));
    elsewhere["device"]["name"] = json!("another");
    let mut nothing = made_up(&[]);
    nothing["rows"] = json!([]);
    for (record, why) in [(elsewhere, "another device"), (nothing, "a/1 is missing")] {
        write(&new, &record);
        let run = bench(&["--compare", &old, "--with", &new]);
        assert_eq!(run.code, Some(3), "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(&format!("NOT COMPARABLE: {why}")), "{}", run.stdout);
    }
    let mut wrong = made_up(&[]);
    wrong["rows"][0]["failure"] = json!({"wrong": true, "why": "bound: d[0, 0]"});
    write(&new, &wrong);
    assert_eq!(bench(&["--compare", &old, "--with", &new]).code, Some(1));
}

#[test]
fn a_wrong_word_or_file_is_one_line() {
    let folder = TempDir::new().unwrap();
    let file = path(&folder, "a.json");
    let emulated = ["--device", "emulated"];
    let with = |more: &[&str], message: &str| refused(&[&emulated[..], more].concat(), message);
    with(&["--list", "deepgem"], "no list is called deepgem; there are small, v3-decode, ");
    with(&["--list", "atlas", "--op", "gate"], "no operation is called gate; there are fp8_gemm");
    with(&["--list", "atlas", "--shape", "3x3"], "no case has the shape 3x3; there are 16x16384x5120");
    with(&["--against", "no-such-revision"], "no revision is called no-such-revision");
    with(&["--json", &path(&folder, "none/a.json")], "cannot write ");
    with(&["--compare", &file], "a.json: No such file");
    for (text, message) in [
        ("{", "a.json is no JSON: "),
        ("{}", "is no file of `bench`: it has no format"),
        (r#"{"format": 2}"#, "has format 2, this version reads 1"),
        (r#"{"format": 1}"#, "is no file of `bench`: missing field"),
    ] {
        fs::write(&file, text).unwrap();
        with(&["--compare", &file], message);
        refused(&["--with", &file], message);
    }
    let run = bench(&["--device", "gpu"]);
    if !Path::new("/dev/nvidiactl").exists() {
        assert_eq!(run.code, Some(2), "{}", run.stdout);
        assert!(run.stderr.starts_with("error: no device to run on: "), "{}", run.stderr);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = program();
    child.arg("bench").args(COUNTED).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("the program starts");
    drop(child.stdout.take());
    let run = finished(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

/// The clock of the fake driver tells nothing of a GPU, but everything behind it is what a GPU would have.
#[test]
fn times_are_taken_under_the_fake_driver() {
    let folder = TempDir::new().unwrap();
    let driver = program().args(["driver", "--into"]).arg(folder.path()).output().unwrap();
    assert!(driver.status.success());
    let (json, page) = (path(&folder, "times.json"), path(&folder, "times.html"));
    let run = program()
        .args([
            "bench",
            "--device",
            "gpu",
            "--op",
            "transpose_scales,fp8_gemm",
            "--json",
            &json,
            "--report",
            &page,
        ])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("FAKE_CUDA_STRICT", "1")
        .output()
        .unwrap();
    let run = finished(run);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let record = read(&json);
    assert_eq!(record["device"]["kind"], "fake_gpu");
    assert!(record["control"]["noise"].is_number() && record["roofs"]["tensor"].is_number(), "{record}");
    for row in record["rows"].as_array().unwrap() {
        assert!(row["failure"].is_null(), "{row}");
        for what in ["cold", "warm", "host"] {
            assert!(!row["times"][what]["seconds"].as_array().unwrap().is_empty(), "{row}");
        }
    }
    assert!(fs::read_to_string(&page).unwrap().contains("fp8_gemm"));
}
