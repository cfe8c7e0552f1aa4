//! Experts' results taken apart.

use anyhow::Result;
use deepseek_kernels::bf16;
use oracles::gemm::{Epilogue, Output as Rounding, Sample, bit_model};

use super::{GroupedFp8GemmProblem, GroupedFp8GemmRun};
use crate::anatomy::{Anatomy, Hypothesis, Tiling};
use crate::case::Prepared;
use crate::gemm::anatomy::{Sums, experts_tiling};
use crate::memory::{Output, Scalar};

impl Anatomy for GroupedFp8GemmRun {
    fn expected(&self) -> Result<Vec<Output>> {
        let GroupedFp8GemmProblem { case, experts, .. } = &*self.problem;
        let n = case.n;
        let mut d = vec![bf16::SENTINEL; case.assignment.rows() * n];
        for (rows, own) in case.assignment.experts().iter().zip(experts) {
            let sums = bit_model(&own.operands()?, &Epilogue::store(Rounding::Bf16), &Sample::all(own.m, n));
            let sums = sums.into_iter().map(bf16::from_f32);
            d[rows.start * n..rows.end * n].iter_mut().zip(sums).for_each(|(d, sum)| *d = sum);
        }
        Ok(vec![Output::of("d", n, &d)])
    }

    fn tiling(&self) -> Tiling {
        experts_tiling(&self.instance(), &self.problem.case.assignment.experts())
    }

    fn hypotheses(&self) -> Vec<Hypothesis<'_>> {
        let GroupedFp8GemmProblem { case, experts, .. } = &*self.problem;
        Sums { experts, rows: case.assignment.experts(), initial: None }.hypotheses()
    }
}
