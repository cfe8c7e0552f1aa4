use std::fmt;

use super::fp8_gemm::{Elements, Epilogue, NotExact, Operands, Sample, Special, bit_model, bound, exact};

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
