//! `model.safetensors.index.json`: which shard of a model holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{MAX_QUOTE, open_regular};
use crate::escape::shortened;

/// How the names of indices end.
pub const ENDING: &str = ".safetensors.index.json";

const MAX_BYTES: u64 = 1 << 28;

/// The shards of a model, beside each other in a folder.
pub struct Index {
    /// Tensors and the names of their files.
    shards: BTreeMap<String, String>,
}

impl Index {
    /// Reads a file that is text of the kind `{`.
    ///
    /// # Errors
    /// What is wrong with it; nothing where it is JSON of another kind.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let mut text = Vec::new();
        open_regular(path)?.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|error| format!("bad JSON: {}", shortened(&error.to_string(), MAX_QUOTE)))?;
        match &json["weight_map"] {
            Value::Null => Ok(None),
            Value::Object(map) => {
                let entry = |(tensor, file): (&String, &Value)| {
                    shard_name(file).map(|file| (tensor.clone(), file.to_owned())).ok_or_else(|| {
                        let file = shortened(&file.to_string(), MAX_QUOTE);
                        format!("weight_map: expected names of files beside the index, got {file}")
                    })
                };
                Ok(Some(Self { shards: map.iter().map(entry).collect::<Result<_, _>>()? }))
            }
            _ => Err("weight_map: expected tensors and the names of their files".to_owned()),
        }
    }

    /// Every tensor.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.shards.keys().map(String::as_str)
    }

    /// The file of a tensor.
    pub fn shard(&self, tensor: &str) -> Option<&str> {
        self.shards.get(tensor).map(String::as_str)
    }

    /// Every file.
    pub fn files(&self) -> BTreeSet<&str> {
        self.shards.values().map(String::as_str).collect()
    }
}

/// A file beside the index, or below: an index leads nowhere else.
fn shard_name(file: &Value) -> Option<&str> {
    let name = file.as_str().filter(|name| !name.is_empty())?;
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_))).then_some(name)
}

/// The indices among the files of a folder.
pub fn among(files: &[PathBuf]) -> Vec<&PathBuf> {
    files.iter().filter(|file| file.to_string_lossy().ends_with(ENDING)).collect()
}
