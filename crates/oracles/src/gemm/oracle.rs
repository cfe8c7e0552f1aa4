//! Three judges of a GEMM, from the strictest input to the weakest.

use super::{Elements, Epilogue, NotExact, Operands, Sample, Special, bit_model, bound, exact};
use crate::verdict::{Mismatch, NOTHING, Verdict};

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

fn same_bits(expected: &[f32], sample: &Sample, got: &Elements) -> Verdict {
    let mut verdict = NOTHING;
    for (index, &expected) in expected.iter().enumerate() {
        let (row, column) = sample.at(index);
        verdict.add_bits((row, column), expected, got(row, column));
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
