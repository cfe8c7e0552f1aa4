//! Quantisers.

mod inputs;
mod quantize;
mod rms_norm;

pub use inputs::quantizer_rows;
pub(crate) use quantize::quantize_values;
pub use quantize::{QuantizeScale, Quantized, quantize_1x128, quantize_128x128};
pub use rms_norm::{NormRounding, RmsNorm};
