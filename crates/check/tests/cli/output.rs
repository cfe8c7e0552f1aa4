//! What `--json` writes, and where: whatever stands there stays what it is.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Run, finished, program, verified, verify};
use crate::weights::{codes, f32_bytes, write};

/// A run of a moment.
const SHORT: [&str; 7] = ["--device", "emulated", "--shapes", "8x128", "--m", "1", "--json"];

fn short(json: &Path) -> Run {
    verify(SHORT.iter().map(Path::new).chain([json]))
}

fn passes(json: &Path) {
    let run = short(json);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
}

fn report(text: &[u8]) -> Value {
    let report: Value = serde_json::from_slice(text).expect("the report is JSON");
    assert_eq!(report["failed"], 0);
    report
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo starts").success());
}

/// No work was done: nothing of it was printed.
fn refused(json: &Path, message: &str) {
    let run = short(json);
    assert_eq!(run.stderr, format!("error: cannot write {}: {message}\n", json.display()));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_report_replaces_the_old_one_and_leaves_nothing_beside_it() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("report.json"), "old").unwrap();
    verified(folder.path(), &["--shapes", "8x128", "--m", "1"]);
    assert_eq!(names(folder.path()), ["report.json"]);
}

/// Whoever has the old one open, here by another name, goes on reading all of it.
#[test]
fn a_report_is_replaced_whole_with_its_mode_and_owner() {
    let folder = TempDir::new().unwrap();
    let [json, other] = ["report.json", "other"].map(|name| folder.path().join(name));
    fs::write(&json, "old").unwrap();
    fs::hard_link(&json, &other).unwrap();
    fs::set_permissions(&json, Permissions::from_mode(0o640)).unwrap();
    let owner = if chown(&json, Some(12), Some(34)).is_ok() { Some((12, 34)) } else { None };
    passes(&json);
    report(&fs::read(&json).unwrap());
    assert_eq!(fs::read(&other).unwrap(), b"old");
    let metadata = fs::metadata(&json).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    match owner {
        Some(owner) => assert_eq!((metadata.uid(), metadata.gid()), owner),
        None => eprintln!("SKIPPED: only root gives files away"),
    }
}

#[test]
fn a_new_report_has_the_mode_of_any_new_file() {
    let folder = TempDir::new().unwrap();
    let [json, other] = ["report.json", "other"].map(|name| folder.path().join(name));
    File::create(&other).unwrap();
    passes(&json);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&json), mode(&other));
}

#[test]
fn a_link_goes_on_pointing_at_what_is_replaced() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("far/there")).unwrap();
    fs::write(at("far/there/report.json"), "old").unwrap();
    fs::set_permissions(at("far/there/report.json"), Permissions::from_mode(0o604)).unwrap();
    symlink("there/report.json", at("far/middle")).unwrap();
    symlink("far/middle", at("link")).unwrap();
    passes(&at("link"));
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("far/middle"));
    assert_eq!(fs::read_link(at("far/middle")).unwrap(), Path::new("there/report.json"));
    assert_eq!(fs::metadata(at("link")).unwrap().permissions().mode() & 0o777, 0o604);
    report(&fs::read(at("far/there/report.json")).unwrap());
    assert_eq!(names(&at("far/there")), ["report.json"]);
}

#[test]
fn a_link_that_leads_nowhere_gets_its_file() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("there")).unwrap();
    symlink("there/report.json", at("link")).unwrap();
    passes(&at("link"));
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    report(&fs::read(at("there/report.json")).unwrap());
    symlink("no-such-folder/report.json", at("lost")).unwrap();
    refused(&at("lost"), "No such file or directory (os error 2)");
}

#[test]
fn a_pipe_stays_a_pipe_and_its_reader_gets_the_report() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe);
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || fs::read(pipe))
    };
    let run = short(&pipe);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    report(&reader.join().unwrap().unwrap());
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), ["pipe"]);
}

#[test]
fn a_pipe_without_a_reader_is_waited_for_and_that_is_said() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe);
    let mut command = program();
    command.arg("verify").args(SHORT).arg(&pipe).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = [0; 24];
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"waiting for a reader of ");
    report(&fs::read(&pipe).unwrap());
    assert!(child.wait().unwrap().success());
}

/// As `--json >(head -c 1)` has it.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe);
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || drop(File::open(pipe)))
    };
    let run = short(&pipe);
    reader.join().unwrap();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn devices_are_written_through() {
    let before = fs::metadata("/dev/null").unwrap();
    passes(Path::new("/dev/null"));
    let after = fs::metadata("/dev/null").unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    let run = short(Path::new("/dev/full"));
    assert_eq!(run.stderr, "error: cannot write /dev/full: No space left on device (os error 28)\n");
    assert_eq!(run.code, Some(2));
}

#[test]
fn standard_output_is_the_reports_alone() {
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let run = short(Path::new(name));
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
        report(run.stdout.as_bytes());
        assert!(run.stderr.ends_with(" 0 failed\n"), "{name}: {}", run.stderr);
    }
}

/// A file that a shell has opened: what it holds stays, and what comes later comes behind.
#[test]
fn a_redirected_output_is_not_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.txt");
    for name in [Path::new("/dev/stdout"), &path] {
        let mut file = File::create(&path).unwrap();
        file.write_all(b"before\n").unwrap();
        let mut command = program();
        command.arg("verify").args(SHORT).arg(name).stdout(file.try_clone().unwrap());
        let run = finished(command.stderr(Stdio::piped()).output().unwrap());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        file.write_all(b"after\n").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let json = text.strip_prefix("before\n").and_then(|text| text.strip_suffix("after\n"));
        report(json.unwrap_or_else(|| panic!("{text}")).as_bytes());
    }
}

#[test]
fn a_report_that_cannot_be_written_costs_no_run() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "").unwrap();
    symlink("loop", at("loop")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for (name, message) in [
        ("no-such-folder/report.json", "No such file or directory (os error 2)"),
        ("file/report.json", "Not a directory (os error 20)"),
        ("loop", "Too many levels of symbolic links (os error 40)"),
        ("socket", "No such device or address (os error 6)"),
        ("report.json/", "it names no file"),
        ("..", "it names no file"),
    ] {
        refused(&at(name), message);
    }
    refused(folder.path(), "it is a directory");
    refused(&at(&"x".repeat(300)), "File name too long (os error 36)");
    refused(Path::new("/proc/report.json"), "No such file or directory (os error 2)");
    assert_eq!(names(folder.path()), ["file", "loop", "socket"]);
}

#[test]
fn what_may_not_be_written_is_refused_before_the_run() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("locked.json"), "old").unwrap();
    fs::set_permissions(at("locked.json"), Permissions::from_mode(0o444)).unwrap();
    fs::create_dir(at("locked")).unwrap();
    fs::write(at("locked/open.json"), "old").unwrap();
    fs::set_permissions(at("locked"), Permissions::from_mode(0o555)).unwrap();
    if File::options().write(true).open(at("locked.json")).is_ok() {
        eprintln!("SKIPPED: root may write everything");
        return;
    }
    refused(&at("locked.json"), "Permission denied (os error 13)");
    refused(&at("locked/new.json"), "permission denied");
    // Nothing can be put beside this one, but it can be written.
    passes(&at("locked/open.json"));
    report(&fs::read(at("locked/open.json")).unwrap());
    fs::set_permissions(at("locked"), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_is_read_is_not_written() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("a.safetensors"), vec![("w", Dtype::F8_E4M3, vec![8, 128], codes(1024))]);
    write(&at("b.safetensors"), vec![("w_scale_inv", Dtype::F32, vec![1, 1], f32_bytes(&[1.0]))]);
    let map = r#"{"weight_map": {"w": "a.safetensors", "w_scale_inv": "b.safetensors"}}"#;
    fs::write(at("model.safetensors.index.json"), map).unwrap();
    fs::write(at("config.json"), "{}").unwrap();
    let inputs = ["a.safetensors", "b.safetensors", "model.safetensors.index.json", "config.json"];
    let before = inputs.map(|name| fs::read(at(name)).unwrap());
    fs::create_dir(at("elsewhere")).unwrap();
    for (i, input) in inputs.into_iter().enumerate() {
        let [hard, soft] = ["hard", "soft"].map(|kind| at("elsewhere").join(format!("{kind}{i}")));
        fs::hard_link(at(input), &hard).unwrap();
        symlink(at(input), &soft).unwrap();
        for output in [at(input), hard, soft] {
            for model in [folder.path(), &at("model.safetensors.index.json")] {
                let arguments = [Path::new("--weights"), model, Path::new("--json"), &output];
                let run = verify(arguments);
                let said = format!("error: cannot write {}: it is ", output.display());
                assert!(
                    run.stderr.starts_with(&said) && run.stderr.ends_with(", which is read\n"),
                    "{}",
                    run.stderr
                );
                assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
            }
        }
    }
    assert_eq!(inputs.map(|name| fs::read(at(name)).unwrap()), before);
}
