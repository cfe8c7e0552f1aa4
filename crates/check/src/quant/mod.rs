//! Cases of the quantisers and of the transposition of scales.

pub mod dequantize;
pub mod quantize_128x128;
pub mod quantize_1x128;
pub mod rms_norm;
mod rule;
pub mod transpose_scales;

use crate::planted::Fault;
use crate::trace::Launch;
use deepseek_kernels::quant::NormRounding;
use deepseek_kernels::{DataFaults, bf16};
use oracles::quant::quantizer_rows;

use crate::case::{Cases, boxed, fault_if};
use crate::data::{repeated, weights};
use crate::deepseek_v3::{HIDDEN, tokens};
use crate::families::Extent;
use dequantize::{Blocks, DequantizeCase};
use quantize_1x128::{Layout, Quantize1x128Case};
use quantize_128x128::Quantize128x128Case;
use rms_norm::{NormOutput, RmsNormCase};
pub use rule::Rule;
pub(crate) use rule::scale_model;
use transpose_scales::TransposeScalesCase;

/// Classes of inputs of a quantiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizerClass {
    /// Rows that show what a quantiser does: zeros, limits, Inf and NaN among them.
    Special,
    /// Each row has an amax of its own, so that formulas of a scale that differ in few codes do differ.
    Ordinary,
    /// Values on the border between two codes, for one formula of the scale and not for another.
    Borders,
    /// Normal weights of a layer.
    Weights,
}

impl QuantizerClass {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Special => "special",
            Self::Ordinary => "ordinary",
            Self::Borders => "borders",
            Self::Weights => "weights",
        }
    }

    /// A matrix `[rows, k]`; `few` of its rows differ, the rest repeats them.
    pub(crate) fn draw(self, (rows, k): (usize, usize), few: bool, seed: u64) -> Vec<bf16> {
        let drawn = if few { rows.min(DRAWN) } else { rows };
        let x = match self {
            Self::Special => quantizer_rows(drawn, k, seed),
            Self::Ordinary => (0..drawn * k).map(|i| ordinary(i / k, i % k)).collect(),
            Self::Borders => (0..drawn * k).map(|i| border(i / k, i % k)).collect(),
            Self::Weights => weights(drawn, k, seed),
        };
        if few { repeated(&x, k, rows) } else { x }
    }
}

/// Whole blocks of scales.
const DRAWN: usize = 256;

fn ordinary(row: usize, column: usize) -> bf16 {
    bf16::from_f32((column as f32 * 0.37).sin() * (row as f32 + 0.7))
}

/// An amax, and a BF16 whose code is one with `448 / amax` and its neighbour with `1 / (amax / 448)`. There are no others, but
/// for powers of two.
const BORDERS: [(f32, f32); 3] = [(1.078_125, 0.808_593_75), (1.187_5, 0.890_625), (1.296_875, 0.972_656_25)];

/// Each block has one such pair, whether it is 128 columns of a row or of 128 rows.
fn border(row: usize, column: usize) -> bf16 {
    let (amax, value) = BORDERS[(row / 128 + column / 128) % BORDERS.len()];
    bf16::from_f32(if row % 128 == column % 128 { amax } else { value })
}

/// What a quantiser has to report of its input.
fn nonfinite(x: &[bf16]) -> DataFaults {
    fault_if(!x.iter().all(|x| x.is_finite()), DataFaults::NONFINITE_INPUT)
}

/// Every kernel, with blocks that end within a CTA and a tile.
pub fn smoke() -> Cases {
    let rows = Quantize1x128Case::new((150, 384));
    let mut cases = boxed([rows, Quantize1x128Case { layout: Layout::RowMajor, ..rows }]);
    cases.extend(boxed([Quantize128x128Case::new((150, 384))]));
    let codes = DequantizeCase::new((150, 304));
    cases.extend(boxed([codes, DequantizeCase { blocks: Blocks::MMajor, ..codes }]));
    cases.extend(boxed([TransposeScalesCase::new((70, 40 * 128))]));
    // More pieces than the threads of a CTA, and fewer.
    let norm = RmsNormCase::new((5, 2176));
    let fp8 = RmsNormCase { output: NormOutput::Fp8(Rule::POWER_OF_TWO), ..RmsNormCase::new((3, 640)) };
    cases.extend(boxed([norm, RmsNormCase { residual: false, ..fp8 }]));
    cases
}

/// A batch of hidden states.
pub fn timed(extent: Extent) -> Cases {
    let shape = match extent {
        Extent::Full => (4096, HIDDEN),
        Extent::Reduced => (40, 512),
    };
    let mut cases = boxed([Quantize1x128Case { repeated: true, ..Quantize1x128Case::new(shape) }]);
    cases.extend(boxed([Quantize128x128Case { repeated: true, ..Quantize128x128Case::new(shape) }]));
    cases.extend(boxed([DequantizeCase::new(shape)]));
    cases.extend(boxed([TransposeScalesCase::new(shape)]));
    let norm = RmsNormCase { repeated: true, ..RmsNormCase::new(shape) };
    cases.extend(boxed([norm, RmsNormCase { output: NormOutput::Fp8(Rule::POWER_OF_TWO), ..norm }]));
    cases
}

/// Around a layer: the norm of hidden states, to both of its outputs and with both of its roundings, and codes back to BF16.
pub fn layer(extent: Extent, seed: u64) -> Cases {
    let case = RmsNormCase { seed, ..RmsNormCase::new((tokens(extent), HIDDEN)) };
    let each_step = RmsNormCase { rounding: NormRounding::EachStep, residual: false, ..case };
    let fp8 = |rule| RmsNormCase { output: NormOutput::Fp8(rule), ..case };
    let mut cases = boxed([case, each_step, fp8(Rule::FP32), fp8(Rule::POWER_OF_TWO)]);
    cases.extend(boxed([DequantizeCase { seed, ..DequantizeCase::new((tokens(extent), HIDDEN)) }]));
    cases
}

/// Launches of every kernel, for the operand trace.
pub fn traced() -> Vec<Launch> {
    [
        quantize_1x128::traced(),
        quantize_128x128::traced(),
        dequantize::traced(),
        transpose_scales::traced(),
        rms_norm::traced(),
    ]
    .concat()
}

/// Launches whose protocols are explored: its kernels have none.
pub fn explored() -> Vec<Launch> {
    Vec::new()
}

/// Faults in its kernels.
pub fn faults() -> Vec<Fault> {
    [
        quantize_1x128::FAULTS,
        quantize_128x128::FAULTS,
        dequantize::FAULTS,
        transpose_scales::FAULTS,
        rms_norm::FAULTS,
    ]
    .concat()
}
