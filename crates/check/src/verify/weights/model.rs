//! A model: a safetensors file, or a folder of them with or without an index.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::TensorInfo;

use super::checkpoint::{Checkpoint, MAX_QUOTE, open_regular};
use super::config::{self, BlockSize};
use super::index::{self, Index};
use super::kind;
use super::pairs::{Role, role};
use crate::escape::shortened;

/// Files that belong together.
pub struct Model {
    tensors: Vec<Tensor>,
    positions: HashMap<String, usize>,
    index: Option<Index>,
    /// Tensors of a shard that the index does not take from there, and why they are not used.
    pub strays: Vec<(Tensor, String)>,
    /// What `config.json` says.
    pub block: Option<BlockSize>,
    pub notes: Vec<String>,
    /// Everything that is read, or may be.
    pub files: Vec<PathBuf>,
}

/// A tensor and where it lies.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub info: TensorInfo,
    pub file: Arc<Checkpoint>,
}

/// The files of a model.
struct Files {
    folder: PathBuf,
    shards: Vec<PathBuf>,
    index: Option<(PathBuf, Index)>,
    /// Safetensors files beside an index that it does not name.
    others: usize,
}

impl Model {
    /// Opens the files that hold what is `wanted`, and its scales.
    ///
    /// # Errors
    /// Of files that are missing, broken, or something else.
    pub fn open(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Self, String> {
        let Files { folder, shards, index, others } = Files::find(path)?;
        let mut model = Self {
            tensors: Vec::new(),
            positions: HashMap::new(),
            index: None,
            strays: Vec::new(),
            block: None,
            notes: Vec::new(),
            files: [path.to_owned(), folder.join(config::NAME)]
                .into_iter()
                .chain(shards.iter().cloned())
                .collect(),
        };
        match config::block_size(&folder) {
            Ok(block) => model.block = block,
            Err(note) => model.notes.push(note),
        }
        if others > 0 {
            model
                .notes
                .push(format!("{others} safetensors files of the folder are not in its index, and not used"));
        }
        match index {
            None => shards.iter().try_for_each(|shard| model.add_file(shard))?,
            Some((path, index)) => {
                model.files.push(path.clone());
                model
                    .add_shards(&folder, &index, wanted)
                    .map_err(|why| format!("{}: {why}", path.display()))?;
                model.index = Some(index);
            }
        }
        Ok(model)
    }

    /// Every tensor of the opened files, in their order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Whether the model has a tensor, in an opened file or in another.
    pub fn has(&self, name: &str) -> bool {
        self.positions.contains_key(name)
            || self.index.as_ref().is_some_and(|index| index.shard(name).is_some())
    }

    /// A tensor of an opened file.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.positions.get(name).map(|&position| &self.tensors[position])
    }

    /// Whether it is all of a model, as far as one can tell.
    pub fn is_whole(&self) -> bool {
        self.index.is_some()
    }

    fn add_file(&mut self, path: &Path) -> Result<(), String> {
        let file = Arc::new(Checkpoint::open(path)?);
        for (name, info) in file.tensors() {
            if let Some(other) = self.tensor(&name) {
                return Err(format!(
                    "{} is in {} and in {}: name one of these files",
                    shortened(&name, MAX_QUOTE),
                    other.file.path().display(),
                    path.display()
                ));
            }
            self.add(Tensor { name, info: info.clone(), file: Arc::clone(&file) });
        }
        Ok(())
    }

    fn add(&mut self, tensor: Tensor) {
        self.positions.insert(tensor.name.clone(), self.tensors.len());
        self.tensors.push(tensor);
    }

    fn add_shards(
        &mut self,
        folder: &Path,
        index: &Index,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<(), String> {
        let needed = |name: &&str| {
            wanted(name)
                || matches!(role(name), Role::Scale(weights)
                    if weights.iter().any(|weight| index.shard(weight).is_some() && wanted(weight)))
        };
        let shards: BTreeSet<&str> =
            index.tensors().filter(needed).filter_map(|name| index.shard(name)).collect();
        for shard in shards {
            let file = Arc::new(Checkpoint::open(&folder.join(shard)).map_err(|why| {
                let all = index.files();
                let there = all.iter().filter(|file| folder.join(file).is_file()).count();
                format!("{there} of {} shards are there; {why}", all.len())
            })?);
            for (name, info) in file.tensors() {
                let tensor = Tensor { name, info: info.clone(), file: Arc::clone(&file) };
                match index.shard(&tensor.name) {
                    Some(other) if other == shard => self.add(tensor),
                    Some(_) => self.strays.push((tensor, "the index takes it from another shard".to_owned())),
                    None => self.strays.push((tensor, "the index does not name it".to_owned())),
                }
            }
            if let Some(lost) =
                index.tensors().find(|name| index.shard(name) == Some(shard) && self.tensor(name).is_none())
            {
                return Err(format!(
                    "{} is not in {shard}, where the index has it",
                    shortened(lost, MAX_QUOTE)
                ));
            }
        }
        Ok(())
    }
}

impl Files {
    fn find(path: &Path) -> Result<Self, String> {
        let in_path = |reason: String| format!("{}: {reason}", path.display());
        if !path.is_dir() {
            let folder = path.parent().unwrap_or(Path::new(""));
            return match index_of(path).map_err(in_path)? {
                Some(index) => Ok(Self::of_index(folder, path, index)),
                None => Ok(Self {
                    folder: folder.to_owned(),
                    shards: vec![path.to_owned()],
                    index: None,
                    others: 0,
                }),
            };
        }
        let entries = fs::read_dir(path).map_err(|error| in_path(error.to_string()))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        let is_model = |file: &&PathBuf| file.extension().is_some_and(|ending| ending == "safetensors");
        let shards: Vec<PathBuf> = files.iter().filter(is_model).cloned().collect();
        match index::among(&files)[..] {
            [] => {}
            [file] => {
                let index = index_of(file).map_err(|reason| format!("{}: {reason}", file.display()))?;
                let index = index.ok_or_else(|| format!("{}: no JSON", file.display()))?;
                let model = Self::of_index(path, file, index);
                let others = shards.iter().filter(|file| !model.shards.contains(file)).count();
                return Ok(Self { others, ..model });
            }
            [one, other, ..] => {
                return Err(in_path(format!("holds {} and {}: name one", one.display(), other.display())));
            }
        }
        if shards.is_empty() {
            return Err(in_path(format!(
                "a folder without safetensors files: expected model.safetensors, or {} and its shards{}",
                "model.safetensors.index.json",
                others(&files)
            )));
        }
        Ok(Self { folder: path.to_owned(), shards, index: None, others: 0 })
    }

    fn of_index(folder: &Path, path: &Path, index: Index) -> Self {
        let shards = index.files().into_iter().map(|file| folder.join(file)).collect();
        Self { folder: folder.to_owned(), shards, index: Some((path.to_owned(), index)), others: 0 }
    }
}

/// The index that a file is; none where it is not JSON.
fn index_of(path: &Path) -> Result<Option<Index>, String> {
    let mut head = Vec::new();
    open_regular(path)?.take(kind::HEAD as u64).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if !kind::is_json(&head) {
        return Ok(None);
    }
    Index::read(path)?.map(Some).ok_or_else(|| kind::OTHER_JSON.to_owned())
}

/// What a folder holds instead.
fn others(files: &[PathBuf]) -> String {
    const ENDINGS: [&str; 8] = ["bin", "pt", "pth", "ckpt", "gguf", "npz", "h5", "onnx"];
    let has = |ending: &&str| files.iter().any(|file| file.extension().is_some_and(|other| other == *ending));
    let found: Vec<String> =
        ENDINGS.iter().filter(|ending| has(ending)).map(|ending| format!("*.{ending}")).collect();
    if found.is_empty() { String::new() } else { format!("; it holds {}", found.join(", ")) }
}
