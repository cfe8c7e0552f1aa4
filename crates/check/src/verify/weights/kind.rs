//! What a file is that is no safetensors file.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

/// Bytes from the beginning that tell.
pub const HEAD: usize = 512;

/// What it is and what to do, in words, if the beginning tells.
pub fn of(head: &[u8]) -> Option<&'static str> {
    let known = KINDS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
    known.or_else(|| archive(head)).or_else(|| text(head))
}

/// What is no regular file.
pub fn of_special(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a pipe: tensors are read by position, save it as a file first"
    } else if kind.is_socket() {
        "a socket: expected a safetensors file or a model's folder"
    } else {
        "a device: expected a safetensors file or a model's folder"
    }
}

const GGUF: &str =
    "a GGUF file of llama.cpp: its blocks are other formats, take the safetensors that it was made from";
const PICKLE: &str = "a pickle, of PyTorch or another: save the tensors with safetensors.torch.save_file";
const COMPRESSED: &str = "compressed: unpack it first";

const KINDS: [(&[u8], &str); 22] = [
    (b"GGUF", GGUF),
    (b"FUGG", GGUF),
    (b"lmgg", GGUF),
    (b"tjgg", GGUF),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (b"\x93NUMPY", "a NumPy array: save it with safetensors.numpy.save_file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file: save the tensors as safetensors"),
    (b"\x1f\x8b", COMPRESSED),
    (b"\x28\xb5\x2f\xfd", COMPRESSED),
    (b"\xfd7zXZ\x00", COMPRESSED),
    (b"BZh", COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", COMPRESSED),
    (b"Rar!", COMPRESSED),
    (b"\x04\x22\x4d\x18", COMPRESSED),
    (b"\x7fELF", "a program or a library: expected a safetensors file or a model's folder"),
    (b"%PDF", "a PDF document: expected a safetensors file or a model's folder"),
    (b"PAR1", "a Parquet table: expected a safetensors file or a model's folder"),
    (b"\x89PNG", "an image: expected a safetensors file or a model's folder"),
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer and not the file itself: fetch it with `git lfs pull`",
    ),
];

/// Of JSON that can be read.
pub const OTHER_JSON: &str =
    "JSON that is no index of safetensors files: expected a weight_map, as in model.safetensors.index.json";

/// Whether it begins as JSON does.
pub fn is_json(head: &[u8]) -> bool {
    text(head) == Some(OTHER_JSON)
}

/// A ZIP by its first entries, a tar by its mark.
fn archive(head: &[u8]) -> Option<&'static str> {
    let holds = |name: &[u8]| head.windows(name.len()).any(|bytes| bytes == name);
    if head.starts_with(b"PK") {
        return Some(if holds(b".npy") {
            "an NPZ archive of NumPy: save the arrays with safetensors.numpy.save_file"
        } else if holds(b"data.pkl") || holds(b"/version") || holds(b"byteorder") {
            "a PyTorch file: save the tensors with safetensors.torch.save_file"
        } else {
            "a ZIP archive: unpack it first"
        });
    }
    (head.get(257..262)? == b"ustar").then_some("a tar archive: unpack it first")
}

/// Text, by what it begins with.
fn text(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    // The last character may be cut.
    let utf8 = str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    let control = |&byte: &u8| byte < b' ' && !byte.is_ascii_whitespace();
    if head.is_empty() || !utf8 || head.iter().any(control) {
        return None;
    }
    let starts =
        |word: &str| head.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()));
    Some(if starts("<!doctype html") || starts("<html") || starts("<head") {
        "an HTML page, as a download gives that failed or wanted a login: download it again"
    } else if starts("<") {
        "an XML text, as a download gives that failed: download it again"
    } else if starts("{") || starts("[") {
        OTHER_JSON
    } else {
        "a text: expected a safetensors file, a model's folder or its model.safetensors.index.json"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_beginning() {
        let mut tar = [0; HEAD];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, kind) in [
            (&b"GGUF\x03\0\0\0"[..], "a GGUF file"),
            (b"\x80\x02}q\0", "a pickle"),
            (b"PK\x03\x04 archive/data.pkl", "a PyTorch file"),
            (b"PK\x03\x04 weight.npy", "an NPZ archive"),
            (b"PK\x03\x04 model.safetensors", "a ZIP archive"),
            (b"\x1f\x8b\x08", "compressed"),
            (&tar, "a tar archive"),
            (b"\n <!DOCTYPE HTML><title>404", "an HTML page"),
            (b"<?xml version=\"1.0\"?><Error>", "an XML text"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
            (b"{\"error\":\"Invalid username or password.\"}", "JSON that is no index"),
            (b"Entry not found", "a text"),
        ] {
            assert!(of(head).is_some_and(|told| told.starts_with(kind)), "{kind}");
        }
        for head in [&b""[..], b"\0\0\0\0", &[0xff; 16], b"{\0\0\0\0\0\0\0{}", b"<\0\0\0\0\0\0\0{"] {
            assert_eq!(of(head), None);
        }
    }
}
