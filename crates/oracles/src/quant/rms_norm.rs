//! RMSNorm, with its order of summation, and the error of any correct one.

use half::bf16;

use crate::gemm::Output;
use crate::verdict::{Verdict, within};
use crate::{ShapeError, check_length};

/// When the result of a step is rounded to BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormRounding {
    /// Only at the end: normalised and weighted in FP32.
    Once,
    /// After the normalisation and after the weight.
    EachStep,
}

/// A norm of rows of `hidden` elements.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Elements of a row.
    pub hidden: usize,
    /// Added to the mean of squares.
    pub eps: f32,
    /// When there is rounding.
    pub rounding: NormRounding,
}

/// Threads that share a row, and the elements that one takes at a time.
const THREADS: usize = 256;
const PIECE: usize = 8;
const LANES: usize = 32;

impl RmsNorm {
    /// `x + residual`, rounded to BF16: what is normalised, and the new residual.
    pub fn sum(x: &[bf16], residual: Option<&[bf16]>) -> Vec<bf16> {
        match residual {
            None => x.to_vec(),
            Some(residual) => {
                x.iter().zip(residual).map(|(x, r)| bf16::from_f32(x.to_f32() + r.to_f32())).collect()
            }
        }
    }

    /// `h * 1 / sqrt(mean(h^2) + eps) * weight` of every row of `h` `[rows, hidden]`, in FP32 but for what `rounding` asks.
    ///
    /// # Errors
    /// When a length does not fit.
    pub fn values(&self, h: &[bf16], weight: &[bf16]) -> Result<Vec<f32>, ShapeError> {
        check_length("weight", self.hidden, weight.len())?;
        check_length("h", h.len() / self.hidden.max(1) * self.hidden, h.len())?;
        let row = |row: &[bf16]| -> Vec<f32> {
            let scale = 1.0 / (sum_of_squares(row) / self.hidden as f32 + self.eps).sqrt();
            let value = |(h, w): (&bf16, &bf16)| {
                let normal = h.to_f32() * scale;
                match self.rounding {
                    NormRounding::Once => normal * w.to_f32(),
                    NormRounding::EachStep => {
                        bf16::from_f32(bf16::from_f32(normal).to_f32() * w.to_f32()).to_f32()
                    }
                }
            };
            row.iter().zip(weight).map(value).collect()
        };
        Ok(h.chunks_exact(self.hidden.max(1)).flat_map(row).collect())
    }

    /// Judges a BF16 result by the norm in f64. Its FP32 operations lose, relatively and to first order in u = 2^-24: the sum
    /// of squares one u for each of the `n` additions that its largest chain has, the mean, eps, root, reciprocal and the two
    /// products one each, of which what stands under the root counts half; then BF16 loses 2^-8, twice where each step is
    /// rounded, and half a subnormal. Rows whose squares are no finite FP32 sum are left to the bits.
    ///
    /// # Errors
    /// When a length does not fit.
    pub fn check(&self, h: &[bf16], weight: &[bf16], got: &[bf16]) -> Result<Verdict, ShapeError> {
        check_length("out", h.len(), got.len())?;
        check_length("weight", self.hidden, weight.len())?;
        const U: f64 = 1.0 / (1 << 24) as f64;
        const BF16: f64 = 1.0 / (1 << 8) as f64;
        let chain = self.hidden.div_ceil(THREADS * PIECE) * PIECE + LANES.ilog2() as usize + THREADS / LANES;
        let roundings = if self.rounding == NormRounding::Once { 1.0 } else { 2.0 };
        let relative = ((chain as f64 + 2.0) / 2.0 + 4.0) * U + roundings * BF16;
        let (mut expected, mut looked_at) = (Vec::with_capacity(h.len()), Vec::with_capacity(h.len()));
        for (row, got) in h.chunks_exact(self.hidden.max(1)).zip(got.chunks_exact(self.hidden.max(1))) {
            let squares: f64 = row.iter().map(|h| h.to_f64().powi(2)).sum();
            if squares.is_finite() && squares < f64::from(f32::MAX) / 2.0 {
                let scale = 1.0 / (squares / self.hidden as f64 + f64::from(self.eps)).sqrt();
                expected.extend(row.iter().zip(weight).map(|(h, w)| h.to_f64() * scale * w.to_f64()));
                looked_at.extend_from_slice(got);
            }
        }
        // Products of the bounds of the roundings are far below the last term.
        const HALF_SUBNORMAL: f64 = 4.6e-41;
        let bound: Vec<f64> = expected
            .iter()
            .zip(weight.iter().cycle())
            .map(|(x, w)| {
                x.abs() * relative * (1.0 + BF16) + HALF_SUBNORMAL * (1.0 + roundings * w.to_f64().abs())
            })
            .collect();
        Ok(within(Output::Bf16, &expected, &bound, self.hidden, &|i| looked_at[i].to_f32()))
    }
}

/// Every thread adds its pieces of the row with one rounding each, ascending; lanes of a warp are added in pairs, 16 apart,
/// then 8, ..., 1; warps follow one another.
fn sum_of_squares(row: &[bf16]) -> f32 {
    let mut sums = [0.0_f32; THREADS];
    for (piece, elements) in row.chunks(PIECE).enumerate() {
        let sum = &mut sums[piece % THREADS];
        *sum = elements.iter().fold(*sum, |sum, x| x.to_f32().mul_add(x.to_f32(), sum));
    }
    let warps = sums.chunks_exact_mut(LANES).map(|lanes| {
        let mut distance = LANES / 2;
        while distance > 0 {
            for lane in 0..distance {
                lanes[lane] += lanes[lane + distance];
            }
            distance /= 2;
        }
        lanes[0]
    });
    warps.fold(0.0, |sum, warp| sum + warp)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of ones has a mean of 1: with eps 0 it stays as it is, and the weight is what comes out.
    #[test]
    fn ones_become_the_weight() {
        let weight: Vec<bf16> = (0..640).map(|i| bf16::from_f32(i as f32)).collect();
        let ones = vec![bf16::ONE; 2 * 640];
        for rounding in [NormRounding::Once, NormRounding::EachStep] {
            let norm = RmsNorm { hidden: 640, eps: 0.0, rounding };
            let values = norm.values(&ones, &weight).unwrap();
            assert!(values.iter().zip(weight.iter().cycle()).all(|(x, w)| *x == w.to_f32()), "{rounding:?}");
        }
    }

    /// The bit model is a correct norm, and one unit of BF16 beside it is none.
    #[test]
    fn the_bound_accepts_the_model_and_little_else() {
        let h: Vec<bf16> = (0..3 * 1152).map(|i| bf16::from_f32((i as f32 * 0.731).sin() * 3.0)).collect();
        let weight: Vec<bf16> = (0..1152).map(|i| bf16::from_f32(1.0 + (i as f32 * 0.37).cos())).collect();
        for rounding in [NormRounding::Once, NormRounding::EachStep] {
            let norm = RmsNorm { hidden: 1152, eps: 1e-6, rounding };
            let mut out: Vec<bf16> =
                norm.values(&h, &weight).unwrap().into_iter().map(bf16::from_f32).collect();
            let verdict = norm.check(&h, &weight, &out).unwrap();
            assert!(verdict.accepted() && verdict.worst > 0.4, "{rounding:?}: {verdict}");
            let index = out.iter().position(|x| x.to_f32() > 1.0).unwrap();
            out[index] = bf16::from_bits(out[index].to_bits() + 3);
            assert_eq!(norm.check(&h, &weight, &out).unwrap().bad, 1, "{rounding:?}");
        }
    }

    /// Two roundings are not one.
    #[test]
    fn the_conventions_differ() {
        let h: Vec<bf16> = (0..1152).map(|i| bf16::from_f32((i as f32 * 0.731).sin() * 3.0)).collect();
        let weight: Vec<bf16> = (0..1152).map(|i| bf16::from_f32(1.0 + (i as f32 * 0.37).cos())).collect();
        let [once, each] = [NormRounding::Once, NormRounding::EachStep].map(|rounding| {
            let values = RmsNorm { hidden: 1152, eps: 1e-6, rounding }.values(&h, &weight).unwrap();
            values.into_iter().map(bf16::from_f32).collect::<Vec<_>>()
        });
        assert!((1..400).contains(&once.iter().zip(&each).filter(|(a, b)| a != b).count()));
    }
}
