//! A safetensors file. Nothing in it is trusted: a size is compared with the file before anything of it is allocated.
//!
//! Tensors are read when they are needed rather than mapped: a file that shrinks under a map kills the process.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo};

use super::kind;
use crate::escape::shortened;

/// A file whose header is consistent with its length.
pub struct Checkpoint {
    path: PathBuf,
    file: Mutex<File>,
    metadata: Metadata,
    /// Where the tensors start.
    data_start: u64,
}

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Characters of a message that quotes the file.
pub const MAX_QUOTE: usize = 200;

impl Checkpoint {
    /// Opens a file; what is none is named for what it is.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::read_header(path).map_err(|reason| format!("{}: {reason}", path.display()))
    }

    fn read_header(path: &Path) -> Result<Self, String> {
        let mut file = open_regular(path)?;
        let length = file.metadata().map_err(text)?.len();
        if length == 0 {
            return Err("an empty file: download it again".to_owned());
        }
        let mut head = Vec::new();
        file.by_ref().take(kind::HEAD as u64).read_to_end(&mut head).map_err(text)?;
        file.rewind().map_err(text)?;
        let unlike = |reason: String| kind::of(&head).map_or(reason, str::to_owned);
        let (metadata, data_start) = parse_header(&mut file, length).map_err(unlike)?;
        let available = length - data_start;
        let (described, present) = (metadata.data_len() as u64, available);
        if described != present {
            let truncated = if present < described { "truncated: " } else { "" };
            return Err(format!(
                "{truncated}the header describes {described} bytes of tensors, the file has {present}"
            ));
        }
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), metadata, data_start })
    }

    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        let info = |name: String| self.metadata.info(&name).map(|info| (name, info));
        self.metadata.offset_keys().into_iter().filter_map(info)
    }

    /// The bytes of `elements` of a tensor.
    pub fn read(&self, info: &TensorInfo, elements: Range<usize>) -> Result<Vec<u8>, String> {
        let size = info.dtype.bitsize() / 8;
        let start = self.data_start + (info.data_offsets.0 + elements.start * size) as u64;
        let mut bytes = vec![0; elements.len() * size];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(bytes)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens what can be read by position. Opening a pipe would wait for somebody to write to it.
pub fn open_regular(path: &Path) -> Result<File, String> {
    let there = fs::metadata(path).map_err(text)?;
    if there.is_dir() {
        return Err("a folder: expected a file".to_owned());
    }
    if !there.is_file() {
        return Err(kind::of_special(there.file_type()).to_owned());
    }
    File::open(path).map_err(text)
}

/// The header, and where the tensors start.
fn parse_header(file: &mut File, length: u64) -> Result<(Metadata, u64), String> {
    let mut prefix = [0; 8];
    if length < prefix.len() as u64 {
        return Err(format!("not a safetensors file: {length} bytes are too few for the header's length"));
    }
    file.read_exact(&mut prefix).map_err(text)?;
    let header_bytes = u64::from_le_bytes(prefix);
    let available = length - prefix.len() as u64;
    if header_bytes > available.min(MAX_HEADER_BYTES) {
        return Err(format!(
            "not a safetensors file, or truncated: a header of {header_bytes} bytes, {available} bytes follow and \
             {MAX_HEADER_BYTES} are allowed"
        ));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).map_err(text)?;
    let metadata = serde_json::from_slice(&header)
        .map_err(|error| format!("bad safetensors header: {}", shortened(&error.to_string(), MAX_QUOTE)))?;
    Ok((metadata, prefix.len() as u64 + header_bytes))
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
