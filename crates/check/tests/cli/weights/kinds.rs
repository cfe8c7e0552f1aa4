//! Files that are no safetensors files are named for what they are.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::program::verify;

fn refused(path: &Path, message: &str) {
    let run = verify([Path::new("--weights"), path]);
    assert_eq!(run.stderr, format!("error: {}: {message}\n", path.display()));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

fn named(file: &str, bytes: &[u8], message: &str) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(file);
    fs::write(&path, bytes).unwrap();
    refused(&path, message);
}

#[test]
fn kinds_of_file() {
    let pickle = "a pickle, of PyTorch or another: save the tensors with safetensors.torch.save_file";
    let torch = "a PyTorch file: save the tensors with safetensors.torch.save_file";
    let html = "an HTML page, as a download gives that failed or wanted a login: download it again";
    let json = "JSON that is no index of safetensors files: expected a weight_map, as in model.safetensors.index.json";
    let gguf =
        "a GGUF file of llama.cpp: its blocks are other formats, take the safetensors that it was made from";
    let lfs = "a Git LFS pointer and not the file itself: fetch it with `git lfs pull`";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n";
    let numpy = "an NPZ archive of NumPy: save the arrays with safetensors.numpy.save_file";
    let text = "a text: expected a safetensors file, a model's folder or its model.safetensors.index.json";
    named("model.gguf", b"GGUF\x03\0\0\0\x22\x01\0\0\0\0\0\0\x18\0\0\0", gguf);
    named("pytorch_model.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", pickle);
    named(
        "model.pt",
        b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\x12\0archive/data.pkl",
        torch,
    );
    named("arrays.npz", b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0arr_0.npy", numpy);
    named(
        "model.zip",
        b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0a.safeten",
        "a ZIP archive: unpack it first",
    );
    named("model.safetensors.gz", b"\x1f\x8b\x08\x08aaaa\0\x03model", "compressed: unpack it first");
    named("model.safetensors", b"<!DOCTYPE html>\n<html><title>404</title>", html);
    named("model.safetensors", b"\xef\xbb\xbf\r\n<HTML><head>", html);
    named("model.safetensors", pointer.as_bytes(), lfs);
    named("model.safetensors", b"", "an empty file: download it again");
    named("model.safetensors", b"Entry not found\n", text);
    named("config.json", b"{\"model_type\": \"deepseek_v3\"}", json);
    named("model.safetensors", b"{\"error\":\"Invalid username or password.\"}", json);
    named("list.json", b"[1, 2]", json);
}

#[test]
fn what_is_no_regular_file() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let _socket = UnixListener::bind(at("socket")).unwrap();
    refused(&at("pipe"), "a pipe: tensors are read by position, save it as a file first");
    refused(&at("socket"), "a socket: expected a safetensors file or a model's folder");
    refused(Path::new("/dev/zero"), "a device: expected a safetensors file or a model's folder");
}

#[test]
fn folders_without_a_model() {
    let folder = TempDir::new().unwrap();
    let expected = "a folder without safetensors files: expected model.safetensors, or model.safetensors.index.json and its \
                    shards";
    refused(folder.path(), expected);
    File::create(folder.path().join("pytorch_model.bin")).unwrap();
    File::create(folder.path().join("model.gguf")).unwrap();
    refused(folder.path(), &format!("{expected}; it holds *.bin, *.gguf"));
}
