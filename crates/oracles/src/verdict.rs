//! Results judged element by element.

use std::fmt;

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

    pub(crate) fn add(&mut self, ratio: f64, mismatch: impl FnOnce() -> Mismatch) {
        self.checked += 1;
        self.worst = self.worst.max(ratio);
        if ratio > 1.0 {
            self.bad += 1;
            self.first_bad.get_or_insert_with(mismatch);
        }
    }

    /// The bits are to be the same; one NaN is as good as another.
    pub(crate) fn add_bits(&mut self, (row, column): (usize, usize), expected: f32, got: f32) {
        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
        let mismatch = || Mismatch { row, column, expected: expected.into(), got, bound: 0.0 };
        self.add(if same { 0.0 } else { f64::INFINITY }, mismatch);
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

pub(crate) const NOTHING: Verdict = Verdict { checked: 0, bad: 0, first_bad: None, worst: 0.0 };

/// Judges elements one by one by a bound; where it is 0, by their bits.
pub fn within(expected: &[f64], bound: &[f64], columns: usize, got: &dyn Fn(usize) -> f32) -> Verdict {
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
