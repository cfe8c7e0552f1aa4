//! Applies the oracles to what a device returned, on as many elements as are affordable.

use oracles::gemm::{Elements, Epilogue, Expectation, NotExact, Operands, Oracle, Output, Sample};
use oracles::verdict::{Errors, Verdict};
use serde::Serialize;

use crate::memory::Scalar;

/// How closely a result is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrutiny {
    /// By every oracle, each on what it can look at in about a second.
    Thorough,
    /// By one oracle on a few elements: nothing wrong is timed.
    Brief,
}

/// The judgement of one oracle.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub oracle: &'static str,
    /// Elements looked at.
    pub checked: usize,
    /// Rows and columns they are the pairs of, when they are a sample.
    pub sample: Option<[usize; 2]>,
    /// Largest error in units of the bound: 0 for equal bits; none where a value is not finite or nothing ran.
    pub worst: Option<f64>,
    /// What is wrong.
    pub failure: Option<String>,
    /// Of each element, where a bound judges it.
    #[serde(skip)]
    pub errors: Errors,
}

impl Check {
    /// Of the verdict of an oracle.
    pub fn of(oracle: &'static str, verdict: &Verdict, sample: Option<[usize; 2]>) -> Self {
        Self {
            oracle,
            checked: verdict.checked,
            sample,
            worst: Some(verdict.worst).filter(|worst| worst.is_finite()),
            failure: (!verdict.accepted()).then(|| verdict.to_string()),
            errors: verdict.errors.clone(),
        }
    }

    /// Something that should equal something else, in all of `checked` elements; `failure` says where it does not.
    pub fn equal(oracle: &'static str, checked: usize, failure: Option<String>) -> Self {
        let worst = failure.is_none().then_some(0.0);
        Self { oracle, checked, sample: None, worst, failure, errors: Errors::default() }
    }

    /// The same oracle's judgement of two parts of a result.
    pub fn and(self, other: Self) -> Self {
        Self {
            oracle: self.oracle,
            checked: self.checked + other.checked,
            sample: self.sample.max(other.sample),
            worst: self.worst.zip(other.worst).map(|(a, b)| a.max(b)),
            failure: self.failure.or(other.failure),
            errors: self.errors.and(other.errors),
        }
    }

    /// The judgements of the same oracles of one part more.
    pub fn join(all: Vec<Self>, part: Vec<Self>) -> Vec<Self> {
        if all.is_empty() {
            return part;
        }
        all.into_iter().zip(part).map(|(all, part)| all.and(part)).collect()
    }

    /// Values of which each is known to a bound, of a matrix of `columns` columns.
    pub fn within(
        oracle: &'static str,
        name: &str,
        columns: usize,
        got: &[f32],
        expected: &[(f64, f64)],
    ) -> Self {
        if got.len() != expected.len() {
            let failure = format!("{name}: expected {} elements, got {}", expected.len(), got.len());
            return Self::failed(oracle, failure);
        }
        let mut check = Self::equal(oracle, expected.len(), None);
        for (i, (&(exact, bound), &got)) in expected.iter().zip(got).enumerate() {
            let error = (f64::from(got) - exact).abs();
            let near = error <= bound || (exact.is_nan() && got.is_nan());
            let ratio = if error > 0.0 { error / bound } else { 0.0 };
            check.errors.add(Output::F32, exact, got, ratio);
            check.worst = check.worst.map(|worst| worst.max(ratio)).filter(|_| near);
            if !near && check.failure.is_none() {
                let (row, column) = (i / columns.max(1), i % columns.max(1));
                check.failure =
                    Some(format!("{name}[{row}, {column}]: expected {exact:e} +- {bound:.3e}, got {got:e}"));
            }
        }
        check
    }

    /// It did not run, or could not be judged.
    pub fn failed(oracle: &'static str, failure: String) -> Self {
        Self {
            oracle,
            checked: 0,
            sample: None,
            worst: None,
            failure: Some(failure),
            errors: Errors::default(),
        }
    }

    /// Where a matrix of `columns` columns differs from what is expected; all NaN are one.
    pub fn difference<T: Scalar>(name: &str, columns: usize, got: &[T], expected: &[T]) -> Option<String> {
        if got.len() != expected.len() {
            return Some(format!("{name}: expected {} elements, got {}", expected.len(), got.len()));
        }
        let i =
            got.iter().zip(expected).position(|(got, want)| got.canonical_bits() != want.canonical_bits())?;
        let (row, column) = (i / columns.max(1), i % columns.max(1));
        let (want, got) = (expected[i], got[i]);
        Some(format!(
            "{name}[{row}, {column}]: expected {want:?} ({:#x}), got {got:?} ({:#x})",
            want.bits(),
            got.bits()
        ))
    }
}

/// Products that an oracle may look at, about a second of one core: past that it judges a sample of D.
const fn budget(oracle: Oracle) -> usize {
    match oracle {
        Oracle::Exact => 1 << 31,
        Oracle::BitModel => 1 << 26,
        Oracle::Bound => 1 << 27,
    }
}

const fn name(oracle: Oracle) -> &'static str {
    match oracle {
        Oracle::Exact => "exact",
        Oracle::BitModel => "bit model",
        Oracle::Bound => "bound",
    }
}

/// Rows of a sample: all tiles of 64 rows or more of 4096 are met.
const SAMPLE_ROWS: usize = 64;
/// Rows and columns of a brief look.
const BRIEF: (usize, usize) = (32, 64);

/// All of D where `budget` products allow it, else rows and columns spread over all of it.
pub fn sample((m, n, k): (usize, usize, usize), budget: usize, seed: u64) -> Sample {
    if m * n * k.max(1) <= budget {
        return Sample::all(m, n);
    }
    let rows = m.min(SAMPLE_ROWS);
    Sample::spread(m, n, rows, (budget / (rows * k)).max(1), seed)
}

/// What the oracles say of a GEMM's inputs.
pub struct GemmJudge {
    /// Of D.
    shape: [usize; 2],
    expected: Vec<(Oracle, Result<Expectation, NotExact>)>,
}

impl GemmJudge {
    /// Asks each oracle for as many elements as are affordable, or, briefly, the bound alone for a few.
    pub fn new(
        scrutiny: Scrutiny,
        oracles: &[Oracle],
        operands: &Operands,
        epilogue: &Epilogue,
        seed: u64,
    ) -> Self {
        let (m, n, k) = operands.shape();
        let ask = |oracle: Oracle, sample| (oracle, oracle.expect(operands, epilogue, sample));
        let expected = match scrutiny {
            Scrutiny::Brief => vec![ask(Oracle::Bound, Sample::spread(m, n, BRIEF.0, BRIEF.1, seed))],
            Scrutiny::Thorough => {
                oracles.iter().map(|&oracle| ask(oracle, sample((m, n, k), budget(oracle), seed))).collect()
            }
        };
        Self { shape: [m, n], expected }
    }

    /// What each says of a result.
    pub fn judge(&self, got: &Elements) -> Vec<Check> {
        let check = |(oracle, expected): &(Oracle, Result<Expectation, NotExact>)| match expected {
            Ok(expected) => {
                let Sample { rows, columns } = expected.sample();
                let size = [rows.len(), columns.len()];
                Check::of(name(*oracle), &expected.check(got), (size != self.shape).then_some(size))
            }
            Err(not_exact) => Check::failed(name(*oracle), not_exact.to_string()),
        };
        self.expected.iter().map(check).collect()
    }
}

#[cfg(test)]
mod tests {
    use deepseek_kernels::F8E4M3;
    use oracles::gemm::{GemmClass, reference};

    use super::*;

    #[test]
    fn a_wrong_element_fails_every_oracle_and_is_named() {
        let inputs = GemmClass::Integers.generate((3, 16, 256), 1).unwrap();
        let operands = inputs.operands().unwrap();
        let mut d: Vec<f32> = reference(&operands, &Sample::all(3, 16)).iter().map(|&x| x as f32).collect();
        let all = [Oracle::Exact, Oracle::BitModel, Oracle::Bound];
        let epilogue = Epilogue::store(Output::F32);
        let [thorough, brief] = [Scrutiny::Thorough, Scrutiny::Brief]
            .map(|scrutiny| GemmJudge::new(scrutiny, &all, &operands, &epilogue, 1));
        let failures = |d: &[f32], judge: &GemmJudge| {
            let checks = judge.judge(&|row, column| d[row * 16 + column]);
            checks.into_iter().map(|check| check.failure).collect::<Vec<_>>()
        };
        assert_eq!(failures(&d, &thorough), [None, None, None]);
        assert_eq!(failures(&d, &brief), [None]);
        d[2 * 16 + 5] *= 1.5;
        for judge in [&thorough, &brief] {
            for failure in failures(&d, judge) {
                let failure = failure.unwrap();
                assert!(
                    failure.starts_with("1 of 48 elements are wrong, first d[2, 5]: expected "),
                    "{failure}"
                );
            }
        }
    }

    #[test]
    fn a_sample_covers_what_is_affordable() {
        assert_eq!(sample((2, 8, 128), 2048, 0).columns.len(), 8);
        let sampled = sample((4096, 2048, 128), 1 << 20, 0);
        assert!(sampled.rows.len() <= 66 && sampled.columns.len() <= 130, "{sampled:?}");
        assert_eq!((sampled.rows[0], *sampled.columns.last().unwrap()), (0, 2047));
    }

    #[test]
    fn a_difference_is_named_and_a_nan_is_like_another() {
        let codes = |bits: [u8; 2]| bits.map(F8E4M3::from_bits);
        let difference = |got| Check::difference("q", 2, &codes(got), &codes([1, 0x7f]));
        assert_eq!(difference([1, 0xff]), None);
        let text = difference([2, 0x7f]).unwrap();
        assert!(text.starts_with("q[0, 0]: expected ") && text.ends_with("(0x2)"), "{text}");
        assert!(difference([1, 3]).unwrap().starts_with("q[0, 1]: expected "));
        assert_eq!(Check::difference("sf", 1, &[1.0_f32], &[]).unwrap(), "sf: expected 0 elements, got 1");
    }
}
