//! `regress`: verdicts, exit codes, and files that are none.

mod exchange;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Run, finished, program};

/// A moment's cases: small outputs, larger ones, and one with a bound.
const OPERATIONS: &str = "bias_update,quantize_128x128,merge_states";

fn regress(arguments: &[&str]) -> Run {
    finished(program().arg("regress").args(arguments).output().expect("the program starts"))
}

fn record(to: &Path) -> Run {
    regress(&["record", "--device", "emulated", "--op", OPERATIONS, "--to", to.to_str().unwrap()])
}

fn check(file: &Path, more: &[&str]) -> Run {
    let file = file.to_str().unwrap();
    regress(&[&["check", file, "--device", "emulated"], more].concat())
}

/// A baseline in a folder of its own.
fn recorded() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("baseline.json");
    let run = record(&file);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    (folder, file)
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn changed(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut baseline = read(file);
    change(&mut baseline);
    fs::write(file, baseline.to_string()).unwrap();
}

/// The case of an operation.
fn case<'v>(baseline: &'v mut Value, operation: &str) -> &'v mut Value {
    let cases = baseline["cases"].as_array_mut().unwrap();
    cases.iter_mut().find(|case| case["name"].as_str().unwrap().starts_with(operation)).unwrap()
}

/// Nothing was compared: one line says why.
fn refused(run: &Run, message: &str) {
    assert!(run.stderr.starts_with("error: ") && run.stderr.contains(message), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

#[test]
fn what_was_recorded_passes_by_bits_by_bounds_and_by_both() {
    let (folder, file) = recorded();
    for more in [&[][..], &["--bits"], &["--bounds"]] {
        let run = check(&file, more);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
        assert!(
            run.stdout.ends_with(" 0 failed, 0 inconclusive\n") && run.stdout.contains("PASS: "),
            "{}",
            run.stdout
        );
    }
    let again = folder.path().join("again.json");
    assert_eq!(record(&again).code, Some(0));
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap(), "the same every time");
    let baseline = read(&file);
    assert_eq!((&baseline["format"], &baseline["device"]["kind"]), (&json!(1), &json!("emulated")));
    assert!(baseline["kernels"]["bias_update"]["registers"].is_string(), "{}", baseline["kernels"]);
}

/// Of a chosen operation alone, and what is found as JSON.
#[test]
fn a_part_of_a_baseline_is_checked() {
    let (folder, file) = recorded();
    let report = folder.path().join("report.json");
    let run = check(&file, &["--op", "merge_states", "--json", report.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    let report = read(&report);
    assert_eq!(report["verdict"], "PASS");
    let cases = report["cases"].as_array().unwrap();
    assert!(cases.iter().all(|case| case["name"].as_str().unwrap().starts_with("merge_states/")), "{report}");
    let run = check(&file, &["--op", "merge_states", "--json", "-"]);
    assert!(
        serde_json::from_str::<Value>(&run.stdout).is_ok() && run.stderr.contains("PASS: "),
        "{}",
        run.stderr
    );
    refused(&check(&file, &["--op", "fp8_gemm"]), "has none of these cases");
}

#[test]
fn other_bits_fail_and_are_diagnosed() {
    let (_folder, file) = recorded();
    changed(&file, |baseline| {
        let output = &mut case(baseline, "bias_update/32")["outputs"][0];
        output["hash"] = json!("0".repeat(64));
        let bits = output["bits"].as_str().expect("a small output has its bits").to_owned();
        let other = if bits.ends_with('0') { '1' } else { '0' };
        output["bits"] = json!(format!("{}{other}", &bits[..bits.len() - 1]));
    });
    let run = check(&file, &["--bits"]);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    for part in ["FAIL bias_update/", " 1 of ", "where: one element", "how: ", "likely: ", ": expected "] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
    // The bounds know nothing of it.
    assert_eq!(check(&file, &["--bounds"]).code, Some(0));
}

/// Where a baseline has no bits, its hashes tell the row and the column.
#[test]
fn hashes_tell_where_a_larger_output_differs() {
    let (_folder, file) = recorded();
    changed(&file, |baseline| {
        let output = &mut case(baseline, "quantize_128x128/")["outputs"][0];
        output["hash"] = json!("0".repeat(64));
        for digests in ["rows", "columns"] {
            let text = output[digests].as_str().unwrap().to_owned();
            output[digests] = json!(format!("{}0000{}", &text[..12], &text[16..]));
        }
    });
    let run = check(&file, &[]);
    assert!(run.stdout.contains("first [3, 3]") && run.stdout.contains("one element"), "{}", run.stdout);
    assert_eq!(run.code, Some(1));
}

#[test]
fn bits_of_another_device_are_inconclusive_and_bounds_are_not() {
    let (_folder, file) = recorded();
    changed(&file, |baseline| baseline["device"]["name"] = json!("a GPU"));
    let run = check(&file, &["--bits"]);
    assert_eq!(run.code, Some(2), "{}", run.stdout);
    assert!(
        run.stdout.contains("INCONCLUSIVE") && run.stdout.contains("another device class"),
        "{}",
        run.stdout
    );
    for more in [&[][..], &["--bounds"]] {
        let run = check(&file, more);
        assert_eq!(run.code, Some(0), "{}", run.stdout);
        assert!(run.stdout.contains("note: the baseline is of a GPU"), "{}", run.stdout);
    }
}

#[test]
fn a_case_that_is_gone_is_inconclusive() {
    let (_folder, file) = recorded();
    changed(&file, |baseline| case(baseline, "bias_update/")["name"] = json!("bias_update/7"));
    let run = check(&file, &[]);
    assert_eq!(run.code, Some(2), "{}", run.stdout);
    assert!(
        run.stdout.contains("INCONCLUSIVE bias_update/7: this version has no such case"),
        "{}",
        run.stdout
    );
    changed(&file, |baseline| case(baseline, "quantize_128x128/")["data"] = json!("Other"));
    assert!(check(&file, &[]).stdout.contains("they were Other"));
}

/// Within the bound, and a bit worse than it was.
#[test]
fn lost_precision_fails() {
    let (_folder, file) = recorded();
    changed(&file, |baseline| {
        let checks = case(baseline, "merge_states/")["checks"].as_array_mut().unwrap();
        let judged = checks.iter_mut().find(|check| check["errors"].is_object()).expect("a bound");
        let mean = judged["errors"]["mean"].as_f64().unwrap();
        judged["errors"]["mean"] = json!(mean / 3.0);
    });
    let run = check(&file, &["--bounds"]);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stdout.contains("a bit of precision is lost. mean error of the bound: "), "{}", run.stdout);
}

#[test]
fn other_registers_are_told() {
    let (_folder, file) = recorded();
    changed(&file, |baseline| baseline["kernels"]["bias_update"]["registers"] = json!("7"));
    let run = check(&file, &["--bits"]);
    assert!(
        run.stdout.contains("note: bias_update is compiled otherwise: registers 7 -> "),
        "{}",
        run.stdout
    );
    assert_eq!(run.code, Some(0));
}

#[test]
fn files_that_are_no_baseline_are_refused() {
    let (folder, file) = recorded();
    let right = fs::read_to_string(&file).unwrap();
    let other = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let longer = right.replacen("\"rows\":\"", "\"rows\":\"0000", 1);
    let mut twice: Value = serde_json::from_str(&right).unwrap();
    let first = twice["cases"][0].clone();
    twice["cases"].as_array_mut().unwrap().push(first);
    for (name, text, message) in [
        ("empty", "", "it is no JSON: EOF"),
        ("cut", &right[..right.len() / 2], "it is no JSON: "),
        ("list", "[1, 2]", "it has no format"),
        (
            "old",
            &right.replacen("\"format\":1", "\"format\":99", 1),
            "it has format 99, this program reads 1",
        ),
        ("part", r#"{"format": 1, "cases": []}"#, "it is no baseline of format 1: missing field"),
        ("more", &right.replacen("\"seed\"", "\"sead\"", 1), "unknown field `sead`"),
        ("rows", &longer, "is not of its shape"),
        ("twice", &twice.to_string(), " twice"),
    ] {
        refused(&check(&other(name, text), &[]), message);
    }
    let bytes = folder.path().join("bytes");
    fs::write(&bytes, [0xff, 0xfe, 0]).unwrap();
    refused(&check(&bytes, &[]), "it is no JSON: ");
    refused(&check(folder.path(), &[]), "Is a directory");
    refused(&check(&folder.path().join("absent"), &[]), "No such file or directory");
    let none = other("none", &right);
    changed(&none, |baseline| baseline["cases"] = json!([]));
    refused(&check(&none, &[]), "has none of these cases");
}

#[test]
fn a_baseline_is_replaced_whole_or_not_at_all() {
    let (folder, file) = recorded();
    let [old, link] = [fs::read(&file).unwrap(), b"old".to_vec()];
    let other = folder.path().join("other");
    fs::write(&file, &link).unwrap();
    fs::hard_link(&file, &other).unwrap();
    // Nothing is written where nothing can be recorded.
    let to = file.to_str().unwrap();
    refused(
        &regress(&["record", "--to", to, "--op", "nothing"]),
        "no operation is called nothing; there are ",
    );
    refused(
        &regress(&["record", "--to", to, "--op", "gate", "--shape", "7x7x7"]),
        "no case has the shape 7x7x7; there are ",
    );
    assert_eq!(fs::read(&file).unwrap(), link);
    assert_eq!(record(&file).code, Some(0));
    assert_eq!((fs::read(&file).unwrap(), fs::read(&other).unwrap()), (old, link));
    let absent = folder.path().join("absent/baseline.json");
    refused(&record(&absent), "No such file or directory");
    refused(&record(folder.path()), "it is a directory");
    // What is read is not written.
    refused(&check(&file, &["--json", to]), "which is read");
}

#[test]
fn options_that_make_no_sense() {
    for arguments in [&["check"][..], &["record"], &["check", "x", "--bits", "--bounds"], &["compare"], &[]] {
        let run = regress(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    }
}

/// What the repository promises of the emulator. After a change on purpose: `cargo run --release -- regress record
/// --device emulated --to tests/baselines/emulated.json`.
#[test]
fn the_committed_baseline_is_met() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/baselines/emulated.json");
    let run = check(&file, &[]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    assert!(!run.stdout.contains("not in the baseline"), "{}", run.stdout);
}

/// Each prints its name and its verdict; of graphs, the fake driver's.
#[test]
fn guarantees_are_kept() {
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("guarantees.json");
    let run = regress(&["guarantees", "--device", "emulated", "--json", report.to_str().unwrap()]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    for name in [
        "batch invariance",
        "tile invariance",
        "fused = unfused",
        "split and merged",
        "page placement",
        "two runs",
        "graph = eager",
    ] {
        assert!(run.stdout.contains(&format!("PASS          {name}: ")), "{name}: {}", run.stdout);
    }
    assert_eq!(read(&report).as_array().unwrap().len(), 7);
    refused(
        &regress(&["guarantees", "--only", "speed"]),
        "no guarantee is called speed; there are batch invariance, ",
    );
}
