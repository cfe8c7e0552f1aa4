//! Results judged element by element.

use std::fmt;

use crate::gemm::Output;

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

/// Elements are counted by their distance from the nearest right value, in units of the last place: up to each of these, and
/// farther.
pub const ULPS: [u64; 7] = [0, 1, 2, 4, 8, 16, 256];

/// How far elements are from what they should be, where that is known to a bound and finite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors {
    /// `|error| / bound` of each element.
    pub ratios: Vec<f32>,
    /// How many are as far off as [`ULPS`] says.
    pub ulps: [u64; ULPS.len() + 1],
}

impl Errors {
    /// One element more, of this type.
    pub fn add(&mut self, output: Output, expected: f64, got: f32, ratio: f64) {
        if !ratio.is_finite() || !expected.is_finite() || !got.is_finite() {
            return;
        }
        self.ratios.push(ratio as f32);
        let distance = ulps(output, expected as f32, got);
        self.ulps[ULPS.iter().position(|&most| distance <= most).unwrap_or(ULPS.len())] += 1;
    }

    /// Of two parts of a result.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.ratios.extend(other.ratios);
        self.ulps.iter_mut().zip(other.ulps).for_each(|(sum, more)| *sum += more);
        self
    }
}

/// Values of the type between two numbers, one of the ends counted; `expected` is rounded to the type first.
pub fn ulps(output: Output, expected: f32, got: f32) -> u64 {
    // Ascending as the values are, both zeros alike.
    let place = |x: f32| {
        let magnitude = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -magnitude } else { magnitude }
    };
    let distance = place(output.round(expected)).abs_diff(place(got));
    match output {
        Output::Bf16 => distance >> 16,
        Output::F32 => distance,
    }
}

/// An oracle's judgement of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Elements looked at.
    pub checked: usize,
    /// Elements rejected.
    pub bad: usize,
    /// The first of them, in row-major order.
    pub first_bad: Option<Mismatch>,
    /// Largest `|error| / bound`; infinite where bits or a special value differ.
    pub worst: f64,
    /// Of each element that is judged by a bound.
    pub errors: Errors,
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
        let Self { checked, bad, first_bad, worst, .. } = self;
        match first_bad {
            Some(first) => write!(f, "{bad} of {checked} elements are wrong, first {first}"),
            None => write!(f, "{checked} elements, worst error {worst:.3} of the bound"),
        }
    }
}

pub(crate) const NOTHING: Verdict = Verdict {
    checked: 0,
    bad: 0,
    first_bad: None,
    worst: 0.0,
    errors: Errors { ratios: Vec::new(), ulps: [0; ULPS.len() + 1] },
};

/// Judges elements of a type one by one by a bound; where it is 0, by their bits.
pub fn within(
    output: Output,
    expected: &[f64],
    bound: &[f64],
    columns: usize,
    got: &dyn Fn(usize) -> f32,
) -> Verdict {
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
        verdict.errors.add(output, expected, got, ratio);
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
