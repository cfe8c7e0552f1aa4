//! Three judges of a GEMM, from the strictest input to the weakest.

use super::{
    Bounded, Elements, Epilogue, NotExact, Operands, Output, Sample, Special, bit_model, bound, exact,
};
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

/// What an oracle says of the elements of a sample before there is a result: it goes by the inputs alone.
pub struct Expectation {
    output: Output,
    sample: Sample,
    elements: Expected,
}

enum Expected {
    Bits(Vec<f32>),
    Within(Vec<Bounded>),
}

impl Oracle {
    /// What the elements of `sample` should be; only [`Oracle::Exact`] can find its inputs unfit.
    pub fn expect(
        self,
        operands: &Operands,
        epilogue: &Epilogue,
        sample: Sample,
    ) -> Result<Expectation, NotExact> {
        let elements = match self {
            Self::Exact => Expected::Bits(exact(operands, epilogue, &sample)?),
            Self::BitModel => Expected::Bits(bit_model(operands, epilogue, &sample)),
            Self::Bound => Expected::Within(bound(operands, epilogue, &sample)),
        };
        Ok(Expectation { output: epilogue.output, sample, elements })
    }

    /// Judges the elements of `sample` that `got` returns.
    pub fn check(
        self,
        operands: &Operands,
        epilogue: &Epilogue,
        sample: &Sample,
        got: &Elements,
    ) -> Result<Verdict, NotExact> {
        Ok(self.expect(operands, epilogue, sample.clone())?.check(got))
    }
}

impl Expectation {
    /// Rows and columns that are looked at.
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Judges the elements of the sample that `got` returns.
    pub fn check(&self, got: &Elements) -> Verdict {
        let mut verdict = NOTHING;
        let place = |index| {
            let (row, column) = self.sample.at(index);
            (row, column, got(row, column))
        };
        match &self.elements {
            Expected::Bits(elements) => {
                for (index, &expected) in elements.iter().enumerate() {
                    let (row, column, got) = place(index);
                    verdict.add_bits((row, column), expected, got);
                }
            }
            Expected::Within(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    let (row, column, got) = place(index);
                    let (expected, ratio) = in_units_of_bound(element, got);
                    verdict.errors.add(self.output, expected, got, ratio);
                    verdict.add(ratio, || Mismatch { row, column, expected, got, bound: element.bound });
                }
            }
        }
        verdict
    }
}

/// What was expected, and the error.
fn in_units_of_bound(element: &Bounded, got: f32) -> (f64, f64) {
    let error = (f64::from(got) - element.reference).abs();
    match element.special {
        Special::Nan => (f64::NAN, if got.is_nan() { 0.0 } else { f64::INFINITY }),
        Special::NotFinite => (f64::INFINITY, if got.is_finite() { f64::INFINITY } else { 0.0 }),
        Special::None if element.bound == f64::INFINITY || error == 0.0 => (element.reference, 0.0),
        Special::None if error.is_nan() => (element.reference, f64::INFINITY),
        Special::None => (element.reference, error / element.bound),
    }
}
