use half::bf16;

use crate::{ShapeError, check_length};

/// What is added up for a token, besides its experts' rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Combined<'a> {
    /// `[tokens, top_k]`; None: all 1.
    pub weights: Option<&'a [f32]>,
    /// `[tokens, hidden]`, added after the routes.
    pub shared: Option<&'a [bf16]>,
    /// `[tokens, hidden]`, added last.
    pub residual: Option<&'a [bf16]>,
}

/// `out[t] = bf16(sum over k ascending of weights[t, k] * y[route_row[t, k]] (+ shared[t]) (+ residual[t]))`, an FP32 fma per
/// term, from +0. Routes without a row in `y` `[rows, hidden]` add nothing.
pub fn combine(
    y: &[bf16],
    (tokens, top_k, hidden): (usize, usize, usize),
    route_row: &[i32],
    addends: &Combined<'_>,
) -> Result<Vec<bf16>, ShapeError> {
    let Combined { weights, shared, residual } = *addends;
    check_length("route_row", tokens * top_k, route_row.len())?;
    check_length("weights", route_row.len(), weights.map_or(route_row.len(), <[f32]>::len))?;
    for addend in [shared, residual].into_iter().flatten() {
        check_length("addend", tokens * hidden, addend.len())?;
    }
    let element = |token: usize, column: usize| {
        let mut sum = 0.0_f32;
        for route in token * top_k..(token + 1) * top_k {
            let row = usize::try_from(route_row[route])
                .ok()
                .and_then(|row| y.get(row * hidden..(row + 1) * hidden));
            if let Some(row) = row {
                sum = weights.map_or(1.0, |w| w[route]).mul_add(row[column].to_f32(), sum);
            }
        }
        for addend in [shared, residual].into_iter().flatten() {
            sum += addend[token * hidden + column].to_f32();
        }
        bf16::from_f32(sum)
    };
    Ok((0..tokens).flat_map(|t| (0..hidden).map(move |c| (t, c))).map(|(t, c)| element(t, c)).collect())
}
