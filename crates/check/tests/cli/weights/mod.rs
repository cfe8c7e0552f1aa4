//! `verify --weights`: files of every kind.

mod hostile;
mod kinds;
mod matrices;
mod models;
mod scales;

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Values like a layer's, without a generator.
pub fn values(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 * 0.08 - 0.04).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn u16_bytes(bits: impl Iterator<Item = u16>) -> Vec<u8> {
    bits.flat_map(u16::to_le_bytes).collect()
}

/// Finite codes of either sign.
pub fn codes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 % 127) as u8 | ((i % 2) as u8) << 7).collect()
}

pub fn write(path: &Path, tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)>) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a consistent tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("the file is written");
}
