//! Files that no tool wrote, or that did not arrive whole: one line each, and no device is opened.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::program::verify;

fn refused(bytes: &[u8], message: &str) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hostile.safetensors");
    fs::write(&path, bytes).unwrap();
    refused_path(&path, message);
}

fn refused_path(path: &Path, message: &str) {
    let run = verify([Path::new("--weights"), path]);
    assert_eq!(run.stderr, format!("error: {}: {message}\n", path.display()));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn header(header_bytes: u64, available: u64) -> String {
    format!(
        "not a safetensors file, or truncated: a header of {header_bytes} bytes, {available} bytes follow and \
         100000000 are allowed"
    )
}

#[test]
fn missing() {
    refused_path(Path::new("no-such.safetensors"), "No such file or directory (os error 2)");
}

#[test]
fn too_short_for_a_header_length() {
    refused(&[1, 0, 0], "not a safetensors file: 3 bytes are too few for the header's length");
}

#[test]
fn a_header_longer_than_memory() {
    refused(&[0xff; 16], &header(u64::MAX, 8));
}

#[test]
fn a_truncated_header() {
    refused(&file("{}", 0)[..9], &header(2, 1));
}

#[test]
fn a_header_that_is_not_json() {
    refused(&file("{\"w\"", 0), "bad safetensors header: EOF while parsing an object at line 1 column 4");
}

#[test]
fn a_header_that_is_not_utf8() {
    let mut bytes = file("{\"?\":1}", 0);
    bytes[10] = 0xff;
    refused(&bytes, "bad safetensors header: invalid unicode code point at line 1 column 3");
}

#[test]
fn a_header_nested_without_end() {
    let nested = "[".repeat(100_000);
    refused(
        &file(&format!("{{\"w\":{nested}"), 0),
        "bad safetensors header: recursion limit exceeded at line 1 column 132",
    );
}

#[test]
fn an_unknown_type() {
    let header = r#"{"w":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#;
    let run_on = file(header, 4);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hostile.safetensors");
    fs::write(&path, run_on).unwrap();
    let run = verify([Path::new("--weights"), &path]);
    assert!(run.stderr.contains("bad safetensors header: unknown variant `F31`"), "{}", run.stderr);
    assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1));
}

#[test]
fn tensors_that_overlap() {
    let tensor = |start, end| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":[{start},{end}]}}"#);
    let header = format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 4), tensor(2, 6));
    refused(&file(&header, 6), "bad safetensors header: invalid offset for tensor `b`");
}

#[test]
fn a_tensor_that_ends_before_it_starts() {
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#;
    refused(&file(header, 4), "bad safetensors header: invalid offset for tensor `a`");
}

#[test]
fn a_shape_that_overflows() {
    let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
    let message = "overflow computing buffer size from shape and/or element type";
    refused(&file(header, 4), &format!("bad safetensors header: {message}"));
}

#[test]
fn a_shape_of_more_bytes_than_the_tensor_has() {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,4]}}"#;
    let message = "invalid shape, data type, or offset for tensor";
    refused(&file(header, 4), &format!("bad safetensors header: {message}"));
}

#[test]
fn a_tensor_as_long_as_the_address_space() {
    let header =
        r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#;
    let message = "overflow computing buffer size from shape and/or element type";
    refused(&file(header, 4), &format!("bad safetensors header: {message}"));
}

#[test]
fn a_tensor_of_two_exabytes() {
    let header =
        r#"{"a":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}}"#;
    let message = "truncated: the header describes 2305843009213693951 bytes of tensors, the file has 4";
    refused(&file(header, 4), message);
}

#[test]
fn truncated() {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    refused(&file(header, 15), "truncated: the header describes 16 bytes of tensors, the file has 15");
}

#[test]
fn longer_than_its_tensors() {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    refused(&file(header, 17), "the header describes 16 bytes of tensors, the file has 17");
}

#[test]
fn without_tensors() {
    refused(&file("{}", 0), "no tensors");
}
