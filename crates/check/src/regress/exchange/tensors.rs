//! Tensors of a file, each asked for by name, type and shape.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::memory::Scalar;

type Parts = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Tensors that will be a file.
#[derive(Default)]
pub struct Writer {
    parts: Parts,
    told: HashMap<String, String>,
}

impl Writer {
    /// A tensor of elements in row-major order.
    pub fn put<T: Scalar>(&mut self, name: &str, shape: &[usize], elements: &[T]) {
        let size = size_of::<T>();
        let bytes = elements.iter().flat_map(|x| x.bits().to_le_bytes().into_iter().take(size)).collect();
        self.parts.insert(name.to_owned(), (T::DTYPE, shape.to_vec(), bytes));
    }

    /// A word beside the tensors.
    pub fn tell(&mut self, key: &str, value: impl ToString) {
        self.told.insert(key.to_owned(), value.to_string());
    }

    pub fn hash(&self) -> String {
        hash(&self.parts)
    }

    /// The file.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let mut views = Vec::new();
        for (name, (dtype, shape, bytes)) in &self.parts {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            views.push((name, view.map_err(|error| format!("{name}: {error}"))?));
        }
        safetensors::serialize(views, Some(self.told.clone())).map_err(|error| error.to_string())
    }
}

/// Tensors of a file.
pub struct Tensors {
    path: PathBuf,
    parts: Parts,
    told: HashMap<String, String>,
}

impl Tensors {
    /// Reads a file.
    ///
    /// # Errors
    /// In one line, why it is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |reason: String| format!("cannot use {}: {reason}", path.display());
        let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| failed(error.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
        let part = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        let parts = tensors.tensors().into_iter().map(part).collect();
        Ok(Self { path: path.to_owned(), parts, told: metadata.metadata().clone().unwrap_or_default() })
    }

    pub fn hash(&self) -> String {
        hash(&self.parts)
    }

    /// What is wrong with the file.
    pub fn wrong(&self, what: impl std::fmt::Display) -> String {
        format!("cannot use {}: {what}", self.path.display())
    }

    /// A word beside the tensors.
    pub fn told(&self, key: &str) -> Result<&str, String> {
        let word = self.told.get(key).map(String::as_str);
        word.ok_or_else(|| self.wrong(format!("its metadata have no `{key}`")))
    }

    /// A number among the words.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        let word = self.told(key)?;
        word.parse().map_err(|_| self.wrong(format!("`{key}` is {word}, which is no number here")))
    }

    pub fn has(&self, name: &str) -> bool {
        self.parts.contains_key(name)
    }

    /// The type of a tensor.
    pub fn dtype(&self, name: &str) -> Result<Dtype, String> {
        Ok(self.part(name)?.0)
    }

    /// The axes of a tensor.
    pub fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let shape = &self.part(name)?.1;
        <[usize; N]>::try_from(&shape[..])
            .map_err(|_| self.wrong(format!("{name} has {} axes, expected {N}", shape.len())))
    }

    /// Elements of a tensor of this shape.
    pub fn get<T: Scalar>(&self, name: &str, expected: &[usize]) -> Result<Vec<T>, String> {
        let (dtype, shape, bytes) = self.part(name)?;
        if *dtype != T::DTYPE || shape != expected {
            let wanted = format!("expected {:?} {expected:?}", T::DTYPE);
            return Err(self.wrong(format!("{name} is {dtype:?} {shape:?}, {wanted}")));
        }
        let word = |bytes: &[u8]| bytes.iter().rfold(0, |bits, &byte| bits << 8 | u32::from(byte));
        Ok(bytes.chunks_exact(size_of::<T>()).map(|bytes| T::from_bits(word(bytes))).collect())
    }

    fn part(&self, name: &str) -> Result<&(Dtype, Vec<usize>, Vec<u8>), String> {
        self.parts.get(name).ok_or_else(|| {
            let there: Vec<&str> = self.parts.keys().map(String::as_str).collect();
            self.wrong(format!("it has no tensor {name}; there are {}", there.join(", ")))
        })
    }
}

fn hash(parts: &Parts) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, (dtype, shape, bytes)) in parts {
        hasher.update(format!("{name} {dtype:?} {shape:?}\n").as_bytes()).update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}
