//! A safetensors file. Nothing in it is trusted: a size is compared with the file before anything of it is allocated.
//!
//! Tensors are read when they are needed rather than mapped: a file that shrinks under a map kills the process.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo};

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

impl Checkpoint {
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::read_header(path).map_err(|reason| format!("{}: {reason}", path.display()))
    }

    fn read_header(path: &Path) -> Result<Self, String> {
        // Before it is opened: opening a pipe waits for somebody to write to it.
        if !fs::metadata(path).map_err(text)?.is_file() {
            return Err("not a regular file".to_owned());
        }
        let mut file = File::open(path).map_err(text)?;
        let length = file.metadata().map_err(text)?.len();
        let mut prefix = [0; 8];
        if length < prefix.len() as u64 {
            return Err(format!(
                "not a safetensors file: {length} bytes are too few for the header's length"
            ));
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
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| format!("bad safetensors header: {error}"))?;

        let (described, present) = (metadata.data_len() as u64, available - header_bytes);
        if described != present {
            let truncated = if present < described { "truncated: " } else { "" };
            return Err(format!(
                "{truncated}the header describes {described} bytes of tensors, the file has {present}"
            ));
        }
        let data_start = prefix.len() as u64 + header_bytes;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), metadata, data_start })
    }

    /// Every tensor, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        let info = |name: String| self.metadata.info(&name).map(|info| (name, info));
        self.metadata.offset_keys().into_iter().filter_map(info)
    }

    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// The bytes of a tensor.
    pub fn read(&self, info: &TensorInfo) -> Result<Vec<u8>, String> {
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(bytes)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
