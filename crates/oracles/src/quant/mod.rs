//! Quantisers.

mod dequantize;
mod inputs;
mod quantize;
mod rms_norm;

pub use dequantize::dequantize;
pub use inputs::quantizer_rows;
pub use quantize::{
    CodeFormula, QuantizeModel, QuantizeScale, Quantized, quantize_1x128, quantize_128x128, quantize_values,
};
pub use rms_norm::{NormRounding, RmsNorm};
