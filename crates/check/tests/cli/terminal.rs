//! What reaches a terminal: names and values of others are shown, not obeyed, and an error is a line.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Run, finished, program, verify};
use crate::weights::{codes, f32_bytes, values, write};

/// What a terminal obeys, or hides, and its escapes.
const NASTY: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{202e}\u{9b}1m\u{200b}\0";
const SHOWN: &str = r"\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{202e}\u{9b}1m\u{200b}\0";

fn is_clean(run: &Run) {
    for text in [&run.stdout, &run.stderr] {
        let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}\u{2066}".contains(c);
        assert!(!text.contains(bad), "{text:?}");
    }
}

#[test]
fn names_of_tensors_are_shown_and_kept_whole_in_the_report() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let long = format!("{}{NASTY}", "x".repeat(5000));
    let lonely = format!("lonely{NASTY}");
    let infinite = format!("infinite{NASTY}");
    write(
        &path,
        vec![
            (&long, Dtype::F32, vec![8, 128], f32_bytes(&values(1024))),
            (&lonely, Dtype::F8_E4M3, vec![8, 128], codes(1024)),
            (&infinite, Dtype::F32, vec![8, 128], f32_bytes(&[f32::INFINITY; 1024])),
        ],
    );
    let arguments = ["--device", "emulated", "--weights", path.to_str().unwrap()];
    let run = verify(arguments);
    is_clean(&run);
    assert_eq!(run.code, Some(3));
    assert!(run.stdout.contains(r"lonely\u{1b}[2J"), "{}", run.stdout);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 120), "{}", run.stdout);

    let run = verify(arguments.iter().chain(&["--json", "-"]));
    is_clean(&run);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(run.stdout.is_ascii());
    assert_eq!(report["rows"][0]["tensor"], *long);
    let unused = report["unused"].as_array().unwrap();
    assert!([lonely, infinite].iter().all(|name| unused.iter().any(|entry| entry["tensor"] == **name)));
}

#[test]
fn names_of_files_and_patterns_are_shown_in_one_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(NASTY.trim_end_matches('\0'));
    write(&path, vec![("w", Dtype::F32, vec![8, 128], f32_bytes(&values(1024)))]);
    let shown = folder.path().join(SHOWN.strip_suffix(r"\0").unwrap());
    let run = verify([Path::new("--weights"), &path, Path::new("--tensor"), Path::new("a\u{1b}\n")]);
    assert_eq!(run.stderr, format!("error: {}: no tensor matches {}\n", shown.display(), r"a\u{1b}\n"));
    let missing = folder.path().join("missing\n\u{1b}[31m");
    for option in ["--weights", "--json"] {
        let run = verify([Path::new(option), &missing.join("x")]);
        is_clean(&run);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1), "{}", run.stderr);
        assert!(run.stderr.contains(r"missing\n\u{1b}[31m"), "{}", run.stderr);
    }
    let into = finished(program().args(["driver", "--into"]).arg(&missing).output().unwrap());
    is_clean(&into);
    assert_eq!(into.stderr.lines().count(), 1);
}

#[test]
fn headers_that_quote_are_quoted_escaped_and_short() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let dtype = format!("{}{}", "F".repeat(100_000), r"\u001b\n\u202e");
    let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,4]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    fs::write(&path, bytes).unwrap();
    let run = verify([Path::new("--weights"), &path]);
    is_clean(&run);
    assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1));
    assert!(run.stderr.chars().count() < 500, "{}", run.stderr);
}

#[test]
fn arguments_are_shown_where_they_are_wrong() {
    let nasty = NASTY.trim_end_matches('\0');
    for arguments in [
        &["--m", nasty][..],
        &["--shapes", nasty],
        &["--device", nasty],
        &["--weights", "x", "--tensor", "(\u{1b}[2J\n"],
        &[nasty],
        &["--seed", nasty],
    ] {
        let run = verify(arguments);
        is_clean(&run);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    }
    let latin = OsStr::from_bytes(b"\xff\x1b[2J");
    for option in ["--m", "--weights", "--shapes", "--tensor"] {
        let run = verify([option.as_ref(), latin]);
        is_clean(&run);
        assert_eq!(run.code, Some(2), "{option}");
    }
}

#[test]
fn the_environment_is_shown_where_it_is_wrong() {
    let folder = TempDir::new().unwrap();
    let written = program().arg("driver").arg("--into").arg(folder.path()).output().unwrap();
    assert!(written.status.success());
    let run = program()
        .args(["verify", "--device", "gpu", "--m", "1", "--shapes", "128x128"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("FAKE_CUDA_MODE", "\u{1b}[2Jlazy\n\u{202e}")
        .output()
        .unwrap();
    let run = finished(run);
    is_clean(&run);
    // The driver's own line, and the program's.
    assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 2), "{}", run.stderr);
    assert!(
        run.stderr.contains(r"FAKE_CUDA_MODE=\x1b[2Jlazy\n\xe2\x80\xae is not understood"),
        "{}",
        run.stderr
    );
}
