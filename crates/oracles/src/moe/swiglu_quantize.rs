use half::bf16;

use crate::quant::quantize_values;
use crate::quant::{QuantizeModel, Quantized};
use crate::{ShapeError, check_length, exp_f32};

/// `gate / (1 + exp(-gate)) * up` in FP32, each operation rounded once; before it `gate <= clamp` and `|up| <= clamp`, as far as
/// they are finite.
pub fn swiglu(gate: f32, up: f32, clamp: Option<f32>) -> f32 {
    let limit = clamp.map_or(f32::INFINITY, f32::abs);
    let gate = if gate.is_finite() && gate > limit { limit } else { gate };
    let up = if up.is_finite() && up.abs() > limit { limit.copysign(up) } else { up };
    gate / (1.0 + exp_f32(-gate)) * up
}

/// An activation and its quantiser.
#[derive(Clone, Copy, Debug)]
pub struct SwigluModel {
    /// Of gate and up.
    pub clamp: Option<f32>,
    /// Up is the left half; otherwise gate is.
    pub up_first: bool,
    /// Of the result.
    pub quantize: QuantizeModel,
}

/// [`swiglu`] of the halves of `x` `[rows, 2 * intermediate]`, times the row's weight, quantised with one scale per 1x128. A row
/// without a weight is zero.
pub fn swiglu_quantize(
    model: &SwigluModel,
    x: &[bf16],
    (rows, intermediate): (usize, usize),
    weight: &(dyn Fn(usize) -> Option<f32> + Sync),
) -> Result<Quantized, ShapeError> {
    check_length("x", rows * 2 * intermediate, x.len())?;
    let SwigluModel { clamp, up_first, quantize } = *model;
    Ok(quantize_values(rows, intermediate, quantize, |row| {
        let (left, right) = x[2 * intermediate * row..][..2 * intermediate].split_at(intermediate);
        let (gate, up) = if up_first { (right, left) } else { (left, right) };
        let value = |(gate, up): (&bf16, &bf16)| match weight(row) {
            Some(weight) => swiglu(gate.to_f32(), up.to_f32(), clamp) * weight,
            None => 0.0,
        };
        gate.iter().zip(up).map(value).collect()
    }))
}
