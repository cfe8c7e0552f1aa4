//! Which tensors of a model can be multiplied.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::checkpoint::Checkpoint;
use super::model::{Model, Tensor};
use super::pairs::{Role, role};
use super::scales::{Grid, is_scale_type};
use crate::verify::report::Unused;
use crate::verify::shapes::MAX_ELEMENTS;

/// The tensors that were asked for.
pub struct Selection {
    pub matrices: Vec<Stored>,
    pub unused: Vec<Unused>,
    pub notes: Vec<String>,
    /// Everything that is read.
    pub files: Vec<PathBuf>,
}

/// A matrix `[n, k]` in a file, n and k above 0: a tensor, or one of a stack.
pub struct Stored {
    pub file: Arc<Checkpoint>,
    pub name: String,
    pub info: TensorInfo,
    /// Its place in the stack.
    pub expert: Option<usize>,
    pub n: usize,
    pub k: usize,
    /// Of an FP8 matrix.
    pub scales: Option<StoredScales>,
}

/// Scales of a matrix in a file, which may be another.
#[derive(Clone)]
pub struct StoredScales {
    pub file: Arc<Checkpoint>,
    pub info: TensorInfo,
    pub grid: Grid,
}

impl Stored {
    /// Rows and columns that the kernels want, filled up with zeros.
    pub fn padded(&self) -> (usize, usize) {
        (self.n.next_multiple_of(8), self.k.next_multiple_of(128))
    }

    /// The entry of a matrix that cannot be used.
    pub fn unused(&self, reason: String) -> Unused {
        let unused = unused(&self.name, &self.info, reason);
        Unused {
            experts: self.expert.into_iter().collect(),
            fp8_matrices: unused.fp8_matrices.min(1),
            ..unused
        }
    }
}

/// Matrices of a stack: more are no experts.
const MAX_EXPERTS: usize = 1024;

/// Opens a model and takes every matrix whose name matches.
pub fn select(path: &Path, pattern: Option<&Regex>) -> Result<Selection, String> {
    let wanted = |name: &str| pattern.is_none_or(|pattern| pattern.is_match(name));
    let model = Model::open(path, &wanted)?;
    let mut selection = Selection {
        matrices: Vec::new(),
        unused: Vec::new(),
        notes: model.notes.clone(),
        files: model.files.clone(),
    };
    for (tensor, reason) in model.strays.iter().filter(|(tensor, _)| wanted(&tensor.name)) {
        selection.unused.push(unused(&tensor.name, &tensor.info, reason.clone()));
    }
    let scales = scales_of_weights(&model);
    for tensor in model.tensors() {
        let found = match weight_of(&model, &tensor.name) {
            Ok(None) if wanted(&tensor.name) => matrices(&model, tensor, scales.get(&*tensor.name)),
            Ok(Some(weight)) if wanted(&weight) => with_weight(model.tensor(&weight)),
            Err(reason) if wanted(&tensor.name) => Err(reason),
            _ => Ok(Vec::new()),
        };
        match found {
            Ok(matrices) => selection.matrices.extend(matrices),
            Err(reason) => selection.unused.push(unused(&tensor.name, &tensor.info, reason)),
        }
    }
    if selection.matrices.is_empty() && selection.unused.is_empty() {
        let what = match pattern {
            None => "no tensors".to_owned(),
            Some(pattern) if model.tensors().iter().any(|tensor| wanted(&tensor.name)) => {
                format!("only scales match {pattern}: they go with their weights, name those")
            }
            Some(pattern) => format!("no tensor matches {pattern}"),
        };
        return Err(format!("{}: {what}", path.display()));
    }
    Ok(selection)
}

/// A tensor that cannot be used, and why.
fn unused(name: &str, info: &TensorInfo, reason: String) -> Unused {
    let fp8_matrices = match info.shape[..] {
        _ if !is_fp8(info.dtype) || info.shape.contains(&0) => 0,
        [] | [_] => 0,
        [experts, _, _] => experts,
        _ => 1,
    };
    let fp8_matrices = if role(name) == Role::Other { fp8_matrices } else { 0 };
    Unused {
        tensor: name.to_owned(),
        dtype: info.dtype.to_string(),
        shape: info.shape.clone(),
        experts: Vec::new(),
        reason,
        fp8_matrices,
    }
}

/// The weight whose scales a tensor holds; none for a tensor that is no scale.
///
/// # Errors
/// Why its scales are of no use.
fn weight_of(model: &Model, name: &str) -> Result<Option<String>, String> {
    match role(name) {
        Role::Other => Ok(None),
        Role::ActivationScale => {
            Err("a scale of activations or of the cache: activations are made up here, and quantised"
                .to_owned())
        }
        Role::Scale(weights) => {
            let weight = weights.into_iter().find(|weight| weight != name && model.has(weight));
            weight.map(Some).ok_or_else(|| {
                let elsewhere = if model.is_whole() {
                    ""
                } else {
                    ", which may be in another file: name the model's folder"
                };
                format!("scales without their weight{elsewhere}")
            })
        }
    }
}

/// Scales by the name of their weight.
fn scales_of_weights(model: &Model) -> HashMap<String, Vec<&Tensor>> {
    let mut scales: HashMap<String, Vec<&Tensor>> = HashMap::new();
    for tensor in model.tensors() {
        if let Ok(Some(weight)) = weight_of(model, &tensor.name) {
            scales.entry(weight).or_default().push(tensor);
        }
    }
    scales
}

/// Scales are listed where their weight is judged without them; else they share its fate.
fn with_weight(weight: Option<&Tensor>) -> Result<Vec<Stored>, String> {
    match weight.map(|weight| weight.info.dtype) {
        Some(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) => {
            Err(format!("scales of a weight in {dtype}, which is judged as it is stored"))
        }
        _ => Ok(Vec::new()),
    }
}

/// The matrices of a tensor.
///
/// # Errors
/// Why it has none that can be used.
fn matrices(model: &Model, tensor: &Tensor, scales: Option<&Vec<&Tensor>>) -> Result<Vec<Stored>, String> {
    let Tensor { name, info, file } = tensor;
    let (experts, [n, k]) = match info.shape[..] {
        [n, k] => (None, [n, k]),
        [experts, n, k] => (Some(experts), [n, k]),
        _ => return Err(format!("{}-D", info.shape.len())),
    };
    if is_fp8(info.dtype) && info.dtype != Dtype::F8_E4M3 {
        return Err("the kernels multiply F8_E4M3; dequantised to BF16 it can be checked".to_owned());
    }
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8_E4M3) {
        return Err("neither F32, F16, BF16 nor F8_E4M3".to_owned());
    }
    if info.shape.contains(&0) {
        return Err("empty".to_owned());
    }
    if experts.is_some_and(|experts| experts > MAX_EXPERTS) {
        return Err(format!("3-D, and more than {MAX_EXPERTS} matrices are no stack of experts"));
    }
    let padded = n.checked_next_multiple_of(8).zip(k.checked_next_multiple_of(128));
    if padded.and_then(|(n, k)| n.checked_mul(k)).is_none_or(|elements| elements > MAX_ELEMENTS) {
        return Err(format!("more than {MAX_ELEMENTS} elements, padding to [8, 128] included"));
    }
    let scales = if info.dtype == Dtype::F8_E4M3 {
        Some(stored_scales(model, [n, k], experts, scales.map_or(&[], Vec::as_slice))?)
    } else {
        None
    };
    let matrix = |expert| Stored {
        file: Arc::clone(file),
        name: name.clone(),
        info: info.clone(),
        expert,
        n,
        k,
        scales: scales.clone(),
    };
    Ok(match experts {
        None => vec![matrix(None)],
        Some(experts) => (0..experts).map(|expert| matrix(Some(expert))).collect(),
    })
}

/// The scales of an FP8 tensor.
///
/// # Errors
/// Why there are none to use.
fn stored_scales(
    model: &Model,
    matrix: [usize; 2],
    experts: Option<usize>,
    found: &[&Tensor],
) -> Result<StoredScales, String> {
    match found {
        [] => {
            let elsewhere = if model.is_whole() { "" } else { "; in another file? name the model's folder" };
            Err(format!(
                "FP8 without scales: no tensor of its name with _scale_inv, _scale or .scale{elsewhere}"
            ))
        }
        [Tensor { info, file, .. }] if is_scale_type(info.dtype) => {
            let grid = Grid::new(matrix, experts, &info.shape, model.block)?;
            Ok(StoredScales { file: Arc::clone(file), info: info.clone(), grid })
        }
        [Tensor { info, .. }] => {
            Err(format!("scales of type {}: expected F32, BF16, F16, F64 or F8_E8M0", info.dtype))
        }
        [one, other, ..] => Err(format!("two tensors may be its scales: {} and {}", one.name, other.name)),
    }
}

fn is_fp8(dtype: Dtype) -> bool {
    use Dtype::{F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ};
    matches!(dtype, F8_E4M3 | F8_E4M3FNUZ | F8_E5M2 | F8_E5M2FNUZ)
}
