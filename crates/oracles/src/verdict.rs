//! Results judged element by element.

use std::fmt;

use crate::gemm::{Elements, Epilogue, NotExact, Operands, Sample, Special, bit_model, bound, exact};
use crate::{ShapeError, check_length};

/// A way to judge every element of a GEMM's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Oracle {
    /// Integers: the bits that every correct kernel gives. Only for exact inputs.
    Exact,
    /// The tensor-core model in the pinned order: these bits.
    BitModel,
    /// Within the a-priori error of any correct kernel.
    Bound,
}

/// One element that an oracle rejects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Row of D.
    pub row: usize,
    /// Column of D.
    pub column: usize,
    /// What it should be.
    pub expected: f64,
    /// What it is.
    pub got: f32,
    /// How far it may be from what it should be; 0 asks for the same bits.
    pub bound: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, column, expected, got, bound } = self;
        write!(f, "d[{row}, {column}]: expected {expected:e}")?;
        if *bound > 0.0 {
            write!(f, " +- {bound:.3e}")?;
        }
        write!(f, ", got {got:e}")
    }
}

/// An oracle's judgement of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Elements looked at.
    pub checked: usize,
    /// Elements rejected.
    pub bad: usize,
    /// The first of them, in row-major order.
    pub first_bad: Option<Mismatch>,
    /// Largest `|error| / bound`; infinite where bits or a special value differ.
    pub worst: f64,
}

impl Verdict {
    /// No element was rejected.
    pub fn accepted(&self) -> bool {
        self.bad == 0
    }

    fn add(&mut self, ratio: f64, mismatch: impl FnOnce() -> Mismatch) {
        self.checked += 1;
        self.worst = self.worst.max(ratio);
        if ratio > 1.0 {
            self.bad += 1;
            self.first_bad.get_or_insert_with(mismatch);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { checked, bad, first_bad, worst } = self;
        match first_bad {
            Some(first) => write!(f, "{bad} of {checked} elements are wrong, first {first}"),
            None => write!(f, "{checked} elements, worst error {worst:.3} of the bound"),
        }
    }
}

impl Oracle {
    /// Judges the elements of `sample` that `got` returns; only [`Oracle::Exact`] can find its inputs
    /// unfit.
    pub fn check(
        self,
        operands: &Operands,
        epilogue: &Epilogue,
        sample: &Sample,
        got: &Elements,
    ) -> Result<Verdict, NotExact> {
        match self {
            Self::Exact => Ok(same_bits(&exact(operands, epilogue, sample)?, sample, got)),
            Self::BitModel => Ok(same_bits(&bit_model(operands, epilogue, sample), sample, got)),
            Self::Bound => Ok(within_bound(operands, epilogue, sample, got)),
        }
    }
}

const NOTHING: Verdict = Verdict { checked: 0, bad: 0, first_bad: None, worst: 0.0 };

fn same_bits(expected: &[f32], sample: &Sample, got: &Elements) -> Verdict {
    let mut verdict = NOTHING;
    for (index, &expected) in expected.iter().enumerate() {
        let (row, column) = sample.at(index);
        let got = got(row, column);
        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
        verdict.add(if same { 0.0 } else { f64::INFINITY }, || Mismatch {
            row,
            column,
            expected: expected.into(),
            got,
            bound: 0.0,
        });
    }
    verdict
}

fn within_bound(operands: &Operands, epilogue: &Epilogue, sample: &Sample, got: &Elements) -> Verdict {
    let mut verdict = NOTHING;
    for (index, element) in bound(operands, epilogue, sample).iter().enumerate() {
        let (row, column) = sample.at(index);
        let got = got(row, column);
        let error = (f64::from(got) - element.reference).abs();
        let (expected, ratio) = match element.special {
            Special::Nan => (f64::NAN, if got.is_nan() { 0.0 } else { f64::INFINITY }),
            Special::NotFinite => (f64::INFINITY, if got.is_finite() { f64::INFINITY } else { 0.0 }),
            Special::None if element.bound == f64::INFINITY || error == 0.0 => (element.reference, 0.0),
            Special::None if error.is_nan() => (element.reference, f64::INFINITY),
            Special::None => (element.reference, error / element.bound),
        };
        verdict.add(ratio, || Mismatch { row, column, expected, got, bound: element.bound });
    }
    verdict
}

/// Judges elements one by one by a bound; where it is 0, by their bits.
pub(super) fn within(expected: &[f64], bound: &[f64], columns: usize, got: &dyn Fn(usize) -> f32) -> Verdict {
    let mut verdict = NOTHING;
    for (index, (&expected, &bound)) in expected.iter().zip(bound).enumerate() {
        let got = got(index);
        let error = (f64::from(got) - expected).abs();
        let same = f64::from(got).to_bits() == expected.to_bits();
        let ratio = match same {
            true => 0.0,
            false if bound == 0.0 || error.is_nan() => f64::INFINITY,
            false => error / bound,
        };
        verdict.add(ratio, || Mismatch {
            row: index / columns,
            column: index % columns,
            expected,
            got,
            bound,
        });
    }
    verdict
}

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
