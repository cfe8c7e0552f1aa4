//! The bar of FlashMLA's own tests.

use std::fmt;

use crate::{ShapeError, check_length};

/// How FlashMLA's tests for its dense decode kernel judge a result (`tests/test_flash_mla_dense_decoding.py` and
/// `tests/kernelkit/compare.py` at commit 9241ae3): the same elements are infinite or NaN, each other one is near
/// absolutely or relatively, and the whole has a small cosine difference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlashMlaBar {
    /// Absolute difference that is enough for an element.
    pub absolute: f64,
    /// Difference relative to `|expected| + 1e-6` that is enough too.
    pub relative: f64,
    /// [`calc_diff`] that the whole must not exceed.
    pub cosine: f64,
}

/// What [`FlashMlaBar`] finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlashMlaVerdict {
    /// Elements that are neither near absolutely nor relatively.
    pub bad: usize,
    /// Index of the worst element, what it should be and what it is.
    pub worst: Option<(usize, f64, f32)>,
    /// The smaller of its two differences, each over its threshold; below 1 is near enough.
    pub worst_ratio: f64,
    /// The cosine difference over its threshold.
    pub cosine_ratio: f64,
}

impl FlashMlaBar {
    /// For the output in BF16.
    pub const OUT: Self = Self { absolute: 8e-4, relative: 2.01 / 128.0, cosine: 5e-6 };
    /// For the logarithms.
    pub const LSE: Self = Self { absolute: 1e-6, relative: 8.01 / 65536.0, cosine: 1e-7 };

    /// Judges `got`.
    pub fn check(&self, expected: &[f64], got: &[f32]) -> Result<FlashMlaVerdict, ShapeError> {
        check_length("got", expected.len(), got.len())?;
        let mut verdict = FlashMlaVerdict { bad: 0, worst: None, worst_ratio: 0.0, cosine_ratio: 0.0 };
        let (mut finite_expected, mut finite_got) = (vec![], vec![]);
        for (index, (&expected, &got)) in expected.iter().zip(got).enumerate() {
            let value = f64::from(got);
            let ratio = if expected.is_finite() && got.is_finite() {
                finite_expected.push(expected);
                finite_got.push(got);
                let error = (value - expected).abs();
                (error / self.absolute).min(error / (expected.abs() + 1e-6) / self.relative)
            } else if value == expected || got.is_nan() && expected.is_nan() {
                0.0
            } else {
                f64::INFINITY
            };
            // The bar is strict.
            verdict.bad += usize::from(ratio >= 1.0);
            if verdict.worst.is_none() || ratio > verdict.worst_ratio {
                (verdict.worst, verdict.worst_ratio) = (Some((index, expected, got)), ratio);
            }
        }
        verdict.cosine_ratio = calc_diff(&finite_expected, &finite_got) / self.cosine;
        Ok(verdict)
    }
}

impl FlashMlaVerdict {
    /// Every element is near, and so is the whole.
    pub fn accepted(&self) -> bool {
        self.bad == 0 && self.cosine_ratio <= 1.0
    }
}

impl fmt::Display for FlashMlaVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bad, worst, worst_ratio, cosine_ratio } = self;
        write!(f, "{bad} bad elements, cosine difference {cosine_ratio:.3} of the threshold")?;
        match worst {
            Some((index, expected, got)) => {
                write!(f, ", worst [{index}]: expected {expected:e}, got {got:e}, {worst_ratio:.3} of it")
            }
            None => Ok(()),
        }
    }
}

/// `1 - 2 <x, y> / (<x, x> + <y, y>)`, a statistical figure for a whole tensor.
///
/// A correct BF16 result scores about 2e-6 against `f64`. Report it; do not accept by it: a 128x128 tile of
/// garbage in a large result scores below the 1e-3 that is often asked for.
pub fn calc_diff(x: &[f64], y: &[f32]) -> f64 {
    let (mut difference, mut norms) = (0.0, 0.0);
    for (&x, &y) in x.iter().zip(y) {
        let y = f64::from(y);
        difference += (x - y) * (x - y);
        norms += x * x + y * y;
    }
    // The same fraction, without the cancellation of 1 - (1 - small).
    if norms == 0.0 { 0.0 } else { difference / norms }
}
