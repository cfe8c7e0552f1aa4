//! Which tensors of a file can be multiplied.

use std::path::Path;
use std::sync::Arc;

use regex::Regex;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::checkpoint::Checkpoint;
use crate::verify::report::Unused;
use crate::verify::shapes::MAX_ELEMENTS;

/// The tensors that were asked for.
pub struct Selection {
    pub matrices: Vec<Stored>,
    pub unused: Vec<Unused>,
}

/// A matrix `[n, k]` in a file, n and k above 0.
pub struct Stored {
    pub file: Arc<Checkpoint>,
    pub name: String,
    pub info: TensorInfo,
    pub n: usize,
    pub k: usize,
    /// Scales `[ceil(n/128), ceil(k/128)]` of an FP8 matrix.
    pub scales: Option<TensorInfo>,
}

impl Stored {
    /// Rows and columns that the kernels want, filled up with zeros.
    pub fn padded(&self) -> (usize, usize) {
        (self.n.next_multiple_of(8), self.k.next_multiple_of(128))
    }
}

/// Opens a file and takes every matrix whose name matches.
pub fn select(path: &Path, pattern: Option<&Regex>) -> Result<Selection, String> {
    let file = Arc::new(Checkpoint::open(path)?);
    let in_file = |reason: String| format!("{}: {reason}", file.path().display());
    let mut selection = Selection { matrices: Vec::new(), unused: Vec::new() };
    for (name, info) in file.tensors() {
        if pattern.is_some_and(|pattern| !pattern.is_match(&name)) || is_scale(&file, &name) {
            continue;
        }
        match classify(&file, &name, info).map_err(in_file)? {
            Ok(matrix) => selection.matrices.push(matrix),
            Err(reason) => selection.unused.push(unused(&name, info, reason)),
        }
    }
    if selection.matrices.is_empty() && selection.unused.is_empty() {
        let what = pattern.map_or("no tensors".to_owned(), |pattern| format!("no tensor matches {pattern}"));
        return Err(in_file(what));
    }
    Ok(selection)
}

/// A tensor that cannot be used, and why.
pub fn unused(name: &str, info: &TensorInfo, reason: String) -> Unused {
    Unused { tensor: name.to_owned(), dtype: info.dtype.to_string(), shape: info.shape.clone(), reason }
}

const SCALE_SUFFIX: &str = "_scale_inv";

/// Scales go with their matrix.
fn is_scale(file: &Checkpoint, name: &str) -> bool {
    let matrix = name.strip_suffix(SCALE_SUFFIX).and_then(|matrix| file.info(matrix));
    matrix.is_some_and(|matrix| matrix.dtype == Dtype::F8_E4M3)
}

/// The inner error is a reason not to use the tensor, the outer one a file that contradicts itself.
fn classify(file: &Arc<Checkpoint>, name: &str, info: &TensorInfo) -> Result<Result<Stored, String>, String> {
    let &[n, k] = info.shape.as_slice() else {
        return Ok(Err(format!("{}-D", info.shape.len())));
    };
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3) {
        return Ok(Err("neither F32, F16, BF16 nor F8_E4M3".to_owned()));
    }
    if n == 0 || k == 0 {
        return Ok(Err("empty".to_owned()));
    }
    let padded = n.checked_next_multiple_of(8).zip(k.checked_next_multiple_of(128));
    if padded.and_then(|(n, k)| n.checked_mul(k)).is_none_or(|elements| elements > MAX_ELEMENTS) {
        return Ok(Err(format!("more than {MAX_ELEMENTS} elements, padding to [8, 128] included")));
    }
    let scales = if info.dtype == Dtype::F8_E4M3 {
        let scale_name = format!("{name}{SCALE_SUFFIX}");
        let Some(scales) = file.info(&scale_name) else {
            return Ok(Err(format!("FP8 without {scale_name}")));
        };
        let expected = [n.div_ceil(128), k.div_ceil(128)];
        if scales.shape != expected || !matches!(scales.dtype, Dtype::F32 | Dtype::BF16) {
            let TensorInfo { dtype, shape, .. } = scales;
            return Err(format!("{scale_name}: expected F32 or BF16 {expected:?}, got {dtype} {shape:?}"));
        }
        Some(scales.clone())
    } else {
        None
    };
    Ok(Ok(Stored { file: Arc::clone(file), name: name.to_owned(), info: info.clone(), n, k, scales }))
}
