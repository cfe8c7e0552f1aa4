//! Values as FP8 codes with a scale per block: quantisers, views of scales, and the kernel that changes their layout.
#![forbid(unsafe_code)]

mod dequantize;
mod quantize;
mod rms_norm;
mod rule;
mod scales;
mod transpose_scales;

pub use dequantize::{
    Dequantize1x128, Dequantize1x128Args, Dequantize128x128, Dequantize128x128Args, DequantizeSpec,
};
pub use quantize::{Quantize1x128, Quantize1x128Args, Quantize128x128, Quantize128x128Args, QuantizeSpec};
pub use rms_norm::{NormRounding, RmsNorm, RmsNormArgs, RmsNormOut, RmsNormSpec};
pub use rule::{QuantizeRule, ScaleFormat};
pub(crate) use scales::{BLOCK, SFB_AXES, blocks, scales_1x128};
pub use scales::{
    MMajor, RowMajor, ScaleLayout, Scales1x128, Scales1x128Mut, Scales128x128, Scales128x128Mut,
};
pub use transpose_scales::{TransposeScales, TransposeScalesArgs, TransposeScalesSpec};
