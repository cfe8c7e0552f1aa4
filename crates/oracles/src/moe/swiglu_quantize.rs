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

/// [`swiglu`] of the left and right halves of `x` `[rows, 2 * intermediate]`, times the row's weight, quantised with one
/// scale per 1x128. A row without a weight is zero.
pub fn swiglu_quantize(
    x: &[bf16],
    rows: usize,
    intermediate: usize,
    clamp: Option<f32>,
    weight: &(dyn Fn(usize) -> Option<f32> + Sync),
    model: QuantizeModel,
) -> Result<Quantized, ShapeError> {
    check_length("x", rows * 2 * intermediate, x.len())?;
    Ok(quantize_values(rows, intermediate, model, |row| {
        let (gate, up) = x[2 * intermediate * row..][..2 * intermediate].split_at(intermediate);
        let value = |(gate, up): (&bf16, &bf16)| match weight(row) {
            Some(weight) => swiglu(gate.to_f32(), up.to_f32(), clamp) * weight,
            None => 0.0,
        };
        gate.iter().zip(up).map(value).collect()
    }))
}
