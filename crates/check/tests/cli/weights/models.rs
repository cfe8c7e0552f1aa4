//! Models of several files: a folder, an index and its shards.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use super::{codes, f32_bytes, values, write};
use crate::program::{reported, rows, verified, verify};

const INDEX: &str = "model.safetensors.index.json";

/// A model whose scales lie in another shard than their weight.
fn model() -> TempDir {
    let folder = TempDir::new().unwrap();
    write(
        &folder.path().join("model-00001-of-00002.safetensors"),
        vec![
            ("a.weight", Dtype::F8_E4M3, vec![136, 128], codes(136 * 128)),
            ("b.weight", Dtype::F32, vec![8, 128], f32_bytes(&values(1024))),
        ],
    );
    write(
        &folder.path().join("model-00002-of-00002.safetensors"),
        vec![
            ("a.weight_scale_inv", Dtype::F32, vec![2, 1], f32_bytes(&[0.5, 2.0])),
            ("c.weight", Dtype::F32, vec![8, 128], f32_bytes(&values(1024))),
        ],
    );
    let map = |tensor: &str, shard| format!("\"{tensor}\": \"model-0000{shard}-of-00002.safetensors\"");
    let entries =
        [map("a.weight", 1), map("b.weight", 1), map("a.weight_scale_inv", 2), map("c.weight", 2)].join(", ");
    fs::write(folder.path().join(INDEX), format!("{{\"metadata\": {{}}, \"weight_map\": {{{entries}}}}}"))
        .unwrap();
    folder
}

fn names(report: &Value) -> Vec<&str> {
    let mut names: Vec<_> = rows(report).iter().map(|row| row["tensor"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn refused(path: &Path, message: &str) {
    let run = verify([Path::new("--weights"), path]);
    assert_eq!(run.stderr, format!("error: {message}\n"));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

#[test]
fn a_folder_and_its_index_are_all_shards() {
    let folder = model();
    let out = TempDir::new().unwrap();
    for path in [folder.path().to_owned(), folder.path().join(INDEX)] {
        let report = verified(out.path(), &["--weights", text(&path), "--m", "2"]);
        assert_eq!(names(&report), ["a.weight", "b.weight", "c.weight"]);
        assert_eq!((&report["fp8_matrices"], &report["fp8_checked"]), (&1.into(), &1.into()));
        assert_eq!(report["unused"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn a_folder_without_an_index_is_all_its_files() {
    let folder = model();
    fs::remove_file(folder.path().join(INDEX)).unwrap();
    let out = TempDir::new().unwrap();
    let report = verified(out.path(), &["--weights", text(folder.path()), "--m", "2"]);
    assert_eq!(names(&report), ["a.weight", "b.weight", "c.weight"]);
    fs::copy(
        folder.path().join("model-00001-of-00002.safetensors"),
        folder.path().join("model-00003.safetensors"),
    )
    .unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let message = format!(
        "b.weight is in {} and in {}: name one of these files",
        at("model-00001-of-00002.safetensors"),
        at("model-00003.safetensors")
    );
    refused(folder.path(), &message);
}

#[test]
fn one_shard_alone_says_where_its_scales_may_be() {
    let folder = model();
    let out = TempDir::new().unwrap();
    let shard = folder.path().join("model-00001-of-00002.safetensors");
    let (code, report) = reported(out.path(), &["--weights", text(&shard), "--m", "2"]);
    assert_eq!((code, names(&report)), (Some(3), vec!["b.weight"]));
    let reason = report["unused"][0]["reason"].as_str().unwrap();
    assert!(reason.ends_with("; in another file? name the model's folder"), "{reason}");
}

/// A cache of downloads has links, and perhaps not all shards yet.
#[test]
fn only_the_shards_that_are_needed_must_be_there() {
    let folder = model();
    let blob = folder.path().join("blob");
    let second = folder.path().join("model-00002-of-00002.safetensors");
    fs::rename(&second, &blob).unwrap();
    let index = folder.path().join(INDEX);
    let message = format!(
        "{}: 1 of 2 shards are there; {}: No such file or directory (os error 2)",
        index.display(),
        second.display()
    );
    refused(folder.path(), &message);
    let out = TempDir::new().unwrap();
    let report = verified(out.path(), &["--weights", text(folder.path()), "--tensor", "^b", "--m", "2"]);
    assert_eq!(names(&report), ["b.weight"]);
    symlink("blob", &second).unwrap();
    let report = verified(out.path(), &["--weights", text(folder.path()), "--tensor", "^a", "--m", "2"]);
    assert_eq!(names(&report), ["a.weight"]);
    fs::write(&blob, b"version https://git-lfs.github.com/spec/v1\n").unwrap();
    let message = format!(
        "{}: 2 of 2 shards are there; {}: a Git LFS pointer and not the file itself: fetch it with `git lfs pull`",
        index.display(),
        second.display()
    );
    refused(folder.path(), &message);
}

#[test]
fn what_an_index_says_is_compared_with_its_shards() {
    let folder = model();
    let index = folder.path().join(INDEX);
    let first = "model-00001-of-00002.safetensors";
    fs::write(&index, format!(r#"{{"weight_map": {{"b.weight": "{first}"}}}}"#)).unwrap();
    let out = TempDir::new().unwrap();
    let (code, report) = reported(out.path(), &["--weights", text(&index), "--m", "2"]);
    assert_eq!((code, names(&report)), (Some(3), vec!["b.weight"]));
    assert_eq!(report["unused"][0]["reason"], "the index does not name it");
    fs::write(&index, format!(r#"{{"weight_map": {{"d\u001b.weight": "{first}"}}}}"#)).unwrap();
    let message = format!(r"{}: d\u{{1b}}.weight is not in {first}, where the index has it", index.display());
    refused(&index, &message);
}

#[test]
fn files_beside_an_index_are_mentioned() {
    let folder = model();
    fs::write(folder.path().join("consolidated.safetensors"), "").unwrap();
    let out = TempDir::new().unwrap();
    let report = verified(out.path(), &["--weights", text(folder.path()), "--m", "2"]);
    assert_eq!(report["notes"][0], "1 safetensors files of the folder are not in its index, and not used");
}

#[test]
fn indices_that_lead_elsewhere_or_nowhere() {
    let folder = model();
    let index: PathBuf = folder.path().join(INDEX);
    for file in ["\"/etc/passwd\"", "\"../x.safetensors\"", "\"\"", "3", "\"a/../../b\"", "null", "\".\""] {
        fs::write(&index, format!(r#"{{"weight_map": {{"w": {file}}}}}"#)).unwrap();
        let message =
            format!("{}: weight_map: expected names of files beside the index, got {file}", index.display());
        refused(&index, &message);
    }
    for (content, message) in [
        ("{\"weight_map\": []}", "weight_map: expected tensors and the names of their files"),
        ("{\"weight_map\": ", "bad JSON: EOF while parsing a value at line 1 column 15"),
        (
            "{\"weight_map\": null}",
            "JSON that is no index of safetensors files: expected a weight_map, as in model.safetensors.index.json",
        ),
        ("{\"weight_map\": {}}", "no tensors"),
    ] {
        fs::write(&index, content).unwrap();
        refused(&index, &format!("{}: {message}", index.display()));
    }
    fs::write(folder.path().join("other.safetensors.index.json"), "{}").unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (one, other) = (at(INDEX), at("other.safetensors.index.json"));
    refused(folder.path(), &format!("{}: holds {one} and {other}: name one", folder.path().display()));
}
