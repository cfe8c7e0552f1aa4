use crate::gemm::Output;
use crate::{ShapeError, check_length, exp_f32, log1p_f32};
use half::bf16;

/// Attention over a part of the keys: o widened to FP32, and the natural logarithm of the sum of exponentials.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// `[rows, columns]`.
    pub o: &'a [f32],
    /// `[rows]`.
    pub lse: &'a [f32],
}

impl State<'_> {
    fn lse(&self, row: usize, infinity_is_empty: bool) -> f32 {
        let lse = self.lse[row];
        if infinity_is_empty && lse == f32::INFINITY { f32::NEG_INFINITY } else { lse }
    }
}

/// o and lse over the keys of both parts, operation by operation as `MergeStates` computes them.
pub fn merge_states(
    parts: [State<'_>; 2],
    columns: usize,
    infinity_is_empty: bool,
    output: Output,
) -> Result<(Vec<f32>, Vec<f32>), ShapeError> {
    check(&parts, columns)?;
    let round = |x: f32| match output {
        Output::Bf16 => bf16::from_f32(x).to_f32(),
        Output::F32 => x,
    };
    let (mut o, mut lse) = (Vec::with_capacity(parts[0].o.len()), Vec::with_capacity(parts[0].lse.len()));
    for row in 0..parts[0].lse.len() {
        let [a, b] = parts.map(|part| part.lse(row, infinity_is_empty));
        let [o_a, o_b] = parts.map(|part| &part.o[row * columns..][..columns]);
        match (a == f32::NEG_INFINITY, b == f32::NEG_INFINITY) {
            (true, true) => {
                o.extend(vec![0.0; columns]);
                lse.push(f32::NEG_INFINITY);
            }
            (false, true) => {
                o.extend(o_a);
                lse.push(a);
            }
            (true, false) => {
                o.extend(o_b);
                lse.push(b);
            }
            (false, false) => {
                let (largest, least) = if a >= b { (a, b) } else { (b, a) };
                let weight = exp_f32(least - largest);
                let (w_a, w_b) = if a >= b { (1.0, weight) } else { (weight, 1.0) };
                o.extend(o_a.iter().zip(o_b).map(|(x, y)| round((w_a * x + w_b * y) / (1.0 + weight))));
                lse.push(largest + log1p_f32(weight));
            }
        }
    }
    Ok((o, lse))
}

/// A value in f64, and how far a correct kernel may be from it.
type Near = (f64, f64);

/// The same in f64, of finite parts: o `[rows, columns]` and lse `[rows]`.
///
/// With u = 2^-24: the difference d of the lse is rounded, which moves the weight t by |d| u; its exponential is within an ulp,
/// 2 u; a product and a sum of each kind follow, and a division, 4 u. So o is off by at most (6 + |d|) u of the weighted sum of
/// |o|, and once more as BF16. In the lse, t / (1 + t) of the weight's error remains, the logarithm is within an ulp, 2 u, and
/// the sum rounds.
pub fn merge_states_bound(
    parts: [State<'_>; 2],
    columns: usize,
    output: Output,
) -> Result<(Vec<Near>, Vec<Near>), ShapeError> {
    const U: f64 = crate::pow2(-24);
    check(&parts, columns)?;
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for row in 0..parts[0].lse.len() {
        let [a, b] = parts.map(|part| f64::from(part.lse[row]));
        let largest = a.max(b);
        let [w_a, w_b] = [a, b].map(|lse| (lse - largest).exp());
        let (sum, weight_error) = (w_a + w_b, ((a - b).abs() + 2.0) * U);
        for column in row * columns..(row + 1) * columns {
            let [x, y] = parts.map(|part| f64::from(part.o[column]));
            let magnitude = (w_a * x.abs() + w_b * y.abs()) / sum;
            let fp32 = (weight_error + 4.0 * U) * magnitude * 1.001 + crate::pow2(-148);
            let rounding = match output {
                Output::Bf16 => magnitude * crate::pow2(-8) + crate::pow2(-134),
                Output::F32 => 0.0,
            };
            o.push(((w_a * x + w_b * y) / sum, fp32 + rounding));
        }
        // The larger weight is 1, beside which the smaller one may be lost.
        let least = w_a.min(w_b);
        let log = least.ln_1p();
        let error = weight_error * least / sum + 2.0 * U * log + U * (largest + log).abs();
        lse.push((largest + log, error * 1.001 + crate::pow2(-148)));
    }
    Ok((o, lse))
}

fn check(parts: &[State<'_>; 2], columns: usize) -> Result<(), ShapeError> {
    let rows = parts[0].lse.len();
    for part in parts {
        check_length("lse", rows, part.lse.len())?;
        check_length("o", rows * columns, part.o.len())?;
    }
    Ok(())
}
