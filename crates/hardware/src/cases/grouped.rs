//! The grouped FP8 GEMM.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::quant::{MMajor, Scales1x128};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::GemmInputs;
use oracles::gemm::{Epilogue, Oracle, Output as Rounding, Sample};

use super::gemm::{inputs, padded};
use super::{SEED, scale_pitch};
use crate::case::{Case, Judgement, Output, Prepared, Work, unwritten};

/// Experts whose numbers of rows differ; all have the same weights, each its own memory.
#[derive(Debug, Clone, Copy)]
pub struct GroupedCase {
    /// How many.
    pub experts: usize,
    /// Rows that one has on average; spread from 0.7 to 1.3 times that, `peers.py` alike.
    pub rows: usize,
    /// Rows of an expert's B, columns of A and B.
    pub layer: (usize, usize),
}

/// Elements of the last expert's rows that are judged: a wrong segment shows there.
const JUDGED: (usize, usize) = (16, 64);

impl GroupedCase {
    /// First row of each expert, and their end.
    fn segments(&self) -> Vec<i32> {
        let mut end = 0;
        let mut next = |expert| {
            end += self.rows * (70 + 37 * expert % 61) / 100;
            end as i32
        };
        [0].into_iter().chain((0..self.experts).map(&mut next)).collect()
    }

    fn total(&self) -> usize {
        self.segments()[self.experts] as usize
    }
}

impl Case for GroupedCase {
    fn operation(&self) -> &'static str {
        "grouped_fp8_gemm"
    }

    fn shape(&self) -> String {
        let Self { experts, rows, layer: (n, k) } = self;
        format!("{experts}x{rows}x{n}x{k}")
    }

    fn work(&self) -> Work {
        let ((n, k), rows) = (self.layer, self.total());
        let scales = 4 * (k / 128) * (rows + self.experts * n.div_ceil(128));
        let bytes = rows * k + self.experts * n * k + scales + 2 * rows * n;
        Work { flops: 2 * (rows * n * k) as u64, bytes: bytes as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let (n, k) = self.layer;
        let inputs = Arc::new(inputs((self.total(), n, k))?);
        (0..sets).map(|_| Ok(Box::new(Problem::new(device, *self, inputs.clone())?) as _)).collect()
    }
}

struct Problem {
    case: GroupedCase,
    /// Of one expert with all rows.
    inputs: Arc<GemmInputs>,
    gemm: GroupedFp8Gemm,
    a: Buffer<F8E4M3>,
    sfa: Buffer<f32>,
    b: Buffer<F8E4M3>,
    sfb: Buffer<f32>,
    segments: Buffer<i32>,
    d: Buffer<bf16>,
}

impl Problem {
    fn new(device: &Device, case: GroupedCase, inputs: Arc<GemmInputs>) -> Result<Self> {
        let GroupedCase { experts, rows: expected_rows, layer: (n, k) } = case;
        let segments = Segments::Ragged { rows: inputs.m };
        let spec = GroupedFp8GemmSpec { experts, n, k, segments, expected_rows };
        Ok(Self {
            gemm: GroupedFp8Gemm::plan(device, spec)?,
            a: device.upload(&inputs.a)?,
            sfa: device.upload(&padded(&inputs.sfa, inputs.m))?,
            b: device.upload(&inputs.b.repeat(experts))?,
            sfb: device.upload(&inputs.sfb.repeat(experts))?,
            segments: device.upload(&case.segments())?,
            d: unwritten(device, inputs.m * n)?,
            case,
            inputs,
        })
    }
}

impl Prepared for Problem {
    fn instance(&self) -> String {
        self.gemm.choice().instance.name()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let experts = self.case.experts;
        let GemmInputs { m, n, k, .. } = *self.inputs;
        let args = GroupedFp8GemmArgs {
            a: Matrix::new(&self.a, m, k)?,
            sfa: Scales1x128::<MMajor>::with_pitch(&self.sfa, m, k, scale_pitch(m))?,
            b: Matrix::new(&self.b, experts * n, k)?,
            sfb: Matrix::new(&self.sfb, experts * n.div_ceil(128), k / 128)?,
            segments: Matrix::new(&self.segments, 1, experts + 1)?,
            d: MatrixMut::new(&mut self.d, m, n)?,
        };
        self.gemm.run(stream, args)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("d", &self.d)?])
    }

    fn judge(&self) -> Result<Judgement> {
        let d = self.d.to_vec()?;
        let GemmInputs { m, n, .. } = *self.inputs;
        let first = self.case.segments()[self.case.experts - 1] as usize;
        let mut sample = Sample::spread(m - first, n, JUDGED.0, JUDGED.1, SEED);
        sample.rows.iter_mut().for_each(|row| *row += first);
        let got = |row: usize, column: usize| d[row * n + column].to_f32();
        let operands = self.inputs.operands()?;
        let verdict = Oracle::Bound.check(&operands, &Epilogue::store(Rounding::Bf16), &sample, &got)?;
        Ok(Judgement::of_bound(&verdict))
    }
}
