//! `driver`: the fake driver in a process of its own, as engines' CI has it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use crate::program::program;

fn write(into: &Path) -> Output {
    program().arg("driver").arg("--into").arg(into).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// verify on one small layer under the driver in `folder`.
fn verify(folder: &Path, variables: &[(&str, &str)]) -> Output {
    program()
        .args(["verify", "--device", "gpu", "--m", "1", "--shapes", "128x128"])
        .env("LD_LIBRARY_PATH", folder)
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts")
}

/// What is neither the new library nor the link to it.
fn others(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "libcuda.so" && name != "libcuda.so.1").collect()
}

#[test]
fn a_program_runs_under_the_driver_that_another_wrote() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("libcuda.so.1"), "an older one").expect("a file to replace");
    let written = write(folder.path());
    assert!(written.status.success(), "{}", text(&written.stderr));
    assert!(text(&written.stdout).contains("LD_LIBRARY_PATH="), "{}", text(&written.stdout));
    assert_eq!(others(folder.path()), [""; 0]);

    for mode in ["lazy", "random", "eager"] {
        let run = verify(folder.path(), &[("FAKE_CUDA_STRICT", "1"), ("FAKE_CUDA_MODE", mode)]);
        let (stdout, stderr) = (text(&run.stdout), text(&run.stderr));
        assert_eq!(run.status.code(), Some(0), "{mode}: {stdout}{stderr}");
        assert!(
            stdout.contains("on fake H100 (emulated Hopper)") && stdout.contains(" 0 failed"),
            "{stdout}"
        );
        assert_eq!(stderr, "", "{mode}");
    }
}

/// cargo adds folders of the build to the search path of what it starts.
#[test]
fn nobody_finds_the_driver_unasked() {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let hook = b"fake_cuda_live";
    for folder in std::env::split_paths(&paths) {
        for name in ["libcuda.so", "libcuda.so.1"] {
            let library = fs::read(folder.join(name)).unwrap_or_default();
            let ours = library.windows(hook.len()).any(|bytes| bytes == hook);
            assert!(!ours, "{} is the fake driver", folder.join(name).display());
        }
    }
}

#[test]
fn strict_processes_end_with_a_status_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(write(folder.path()).status.success());
    for (fault, told) in [
        ("half-the-threads", "launched with 128 threads, written for 256"),
        ("free-dropped", "alive: allocation"),
        ("smem-opt-in-too-large", "cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE"),
    ] {
        let run = verify(folder.path(), &[("FAKE_CUDA_STRICT", "1"), ("FAKE_CUDA_FAULT", fault)]);
        let stderr = text(&run.stderr);
        assert_eq!(run.status.code(), Some(86), "{fault}: {stderr}");
        assert!(stderr.contains("FAKE_CUDA_STRICT: ") && stderr.contains(told), "{fault}: {stderr}");
    }
}

#[test]
fn a_value_that_is_none_is_not_taken_for_another() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(write(folder.path()).status.success());
    for (variable, value) in [
        ("FAKE_CUDA_MODE", "lasy"),
        ("FAKE_CUDA_SEED", "one"),
        ("FAKE_CUDA_SMS", "133"),
        ("FAKE_CUDA_FAULT", "no-such-fault"),
        ("FAKE_CUDA_STRICT", "yes"),
    ] {
        let run = verify(folder.path(), &[(variable, value)]);
        let stderr = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{variable}={value}: {stderr}");
        assert!(stderr.contains(&format!("{variable}={value} is not understood")), "{stderr}");
    }
}

/// A GPU's driver has the same names; so have links to it, and to an older driver of this program.
#[test]
fn what_stands_there_stays_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let refused = |message: &str| {
        let run = write(folder.path());
        assert_eq!(run.status.code(), Some(2));
        let stderr = text(&run.stderr);
        assert!(stderr.contains(message) && stderr.lines().count() == 1, "{stderr}");
    };
    let real = b"\x7fELF of somebody else";
    for name in ["libcuda.so.1", "libcuda.so"] {
        fs::write(at("real"), real).expect("a file");
        symlink("real", at(name)).expect("a link");
        refused(
            "is a library that this program did not write, perhaps a GPU's driver: choose another folder",
        );
        assert_eq!(fs::read(at("real")).expect("the file"), real);
        fs::remove_file(at(name)).expect("the link");
        fs::rename(at("real"), at(name)).expect("the file");
        refused("is a library that this program did not write");
        assert_eq!(fs::read(at(name)).expect("the file"), real);
        fs::remove_file(at(name)).expect("the file");
        assert_eq!(others(folder.path()), [""; 0], "nothing was written");
        assert!(Command::new("mkfifo").arg(at(name)).status().expect("mkfifo starts").success());
        refused("expected a file or nothing, got something else");
        fs::remove_file(at(name)).expect("the pipe");
    }
    for (link, to) in [("libcuda.so.1", "first"), ("libcuda.so", "second")] {
        fs::write(at(to), "an older one").expect("a file");
        symlink(to, at(link)).expect("a link");
    }
    let hook = b"fake_cuda_live";
    for _ in 0..2 {
        assert!(write(folder.path()).status.success());
        for (link, to) in [("libcuda.so.1", "first"), ("libcuda.so", "second")] {
            assert_eq!(fs::read_link(at(link)).expect("a link"), Path::new(to));
            let library = fs::read(at(to)).expect("the library");
            assert!(library.windows(hook.len()).any(|bytes| bytes == hook));
        }
    }
}

#[test]
fn folders_that_cannot_take_it_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    for into in [file, folder.path().join("missing"), "/proc".into()] {
        let refused = write(&into);
        assert_eq!(refused.status.code(), Some(2), "{into:?}");
        let stderr = text(&refused.stderr);
        assert!(stderr.starts_with("error: ") && stderr.contains(into.to_str().expect("text")), "{stderr}");
    }
    assert_eq!(others(folder.path()), ["file"]);
}

/// A driver's library without its functions, where cudarc would panic.
#[cfg(unix)]
#[test]
fn a_driver_without_its_functions_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(folder.path().join("libcuda.so"))
        .status();
    assert!(made.expect("the tests need a C compiler").success());
    let output = program()
        .args(["verify", "--device", "gpu"])
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .expect("the program starts");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: no device to run on: the NVIDIA driver libcuda.so has no cuCtxGetCurrent: expected one for CUDA 12.8 \
         or newer\n"
    );
}
