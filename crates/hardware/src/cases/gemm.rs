//! The dense FP8 GEMM.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GemmInstance, GemmOutput, OutputType};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::{Epilogue, Oracle, Output as Rounding, Sample};
use oracles::gemm::{GemmClass, GemmInputs};

use super::{SEED, repeated, scale_pitch};
use crate::case::{Case, Judgement, Output, Prepared, Scalar, Work, unwritten};

/// `D[m, n] = A[m, k] . B[n, k]^T`, block-scaled.
#[derive(Debug, Clone, Copy)]
pub struct GemmCase {
    /// Rows of A and D, rows of B, columns of both.
    pub shape: (usize, usize, usize),
    /// Type of D.
    pub output: OutputType,
    /// Instead of the planner's choice.
    pub instance: Option<GemmInstance>,
}

/// Rows of A and of B that differ; the rest repeats them. Whole blocks of scales of B.
const DRAWN: (usize, usize) = (512, 1024);
/// Elements of D that are judged.
const JUDGED: (usize, usize) = (32, 64);

impl Case for GemmCase {
    fn operation(&self) -> &'static str {
        "fp8_gemm"
    }

    fn shape(&self) -> String {
        let (m, n, k) = self.shape;
        let output = match self.output {
            OutputType::Bf16 => "bf16",
            OutputType::F32 => "f32",
        };
        format!(
            "{m}x{n}x{k}_{output}{}",
            self.instance.map_or_else(String::new, |i| format!("_{}", i.name()))
        )
    }

    fn work(&self) -> Work {
        let (m, n, k) = self.shape;
        let scales = 4 * (k / 128) * (m + n.div_ceil(128));
        let bytes = m * k + n * k + scales + m * n * self.output.bytes() as usize;
        Work { flops: 2 * (m * n * k) as u64, bytes: bytes as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let inputs = Arc::new(inputs(self.shape)?);
        (0..sets)
            .map(|_| {
                let inputs = inputs.clone();
                Ok(match self.output {
                    OutputType::Bf16 => Box::new(Problem::<bf16>::new(device, inputs, self.instance)?) as _,
                    OutputType::F32 => Box::new(Problem::<f32>::new(device, inputs, self.instance)?) as _,
                })
            })
            .collect()
    }
}

/// Normal data, quantised.
pub(super) fn inputs((m, n, k): (usize, usize, usize)) -> Result<GemmInputs> {
    let drawn = GemmClass::Normal.generate((m.min(DRAWN.0), n.min(DRAWN.1), k), SEED)?;
    let sfa = drawn.sfa.chunks(drawn.m).flat_map(|line| repeated(line, 1, m)).collect();
    Ok(GemmInputs {
        m,
        n,
        k,
        a: repeated(&drawn.a, k, m),
        sfa,
        b: repeated(&drawn.b, k, n),
        sfb: repeated(&drawn.sfb, k / 128, n.div_ceil(128)),
    })
}

/// Scales of A as the kernel reads them: what lies between the lines must not be read.
pub(super) fn padded(sfa: &[f32], m: usize) -> Vec<f32> {
    let line = |line: &[f32]| {
        let mut line = line.to_vec();
        line.resize(scale_pitch(m), f32::SENTINEL);
        line
    };
    sfa.chunks(m).flat_map(line).collect()
}

struct Problem<D> {
    inputs: Arc<GemmInputs>,
    gemm: Fp8Gemm<D>,
    a: Buffer<F8E4M3>,
    sfa: Buffer<f32>,
    b: Buffer<F8E4M3>,
    sfb: Buffer<f32>,
    d: Buffer<D>,
}

impl<D: GemmOutput> Problem<D>
where
    D: Scalar,
{
    fn new(device: &Device, inputs: Arc<GemmInputs>, instance: Option<GemmInstance>) -> Result<Self> {
        let GemmInputs { m, n, k, .. } = *inputs;
        let spec = Fp8GemmSpec { m, n, k, accumulate: false };
        Ok(Self {
            gemm: match instance {
                Some(instance) => Fp8Gemm::plan_instance(device, spec, instance)?,
                None => Fp8Gemm::plan(device, spec)?,
            },
            a: device.upload(&inputs.a)?,
            sfa: device.upload(&padded(&inputs.sfa, m))?,
            b: device.upload(&inputs.b)?,
            sfb: device.upload(&inputs.sfb)?,
            d: unwritten(device, m * n)?,
            inputs,
        })
    }
}

impl<D: GemmOutput> Prepared for Problem<D>
where
    D: Scalar + Into<f32>,
{
    fn instance(&self) -> String {
        self.gemm.choice().instance.name()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let GemmInputs { m, n, k, .. } = *self.inputs;
        let args = Fp8GemmArgs {
            a: Matrix::new(&self.a, m, k)?,
            sfa: Scales1x128::<MMajor>::with_pitch(&self.sfa, m, k, scale_pitch(m))?,
            b: Matrix::new(&self.b, n, k)?,
            sfb: Scales128x128::new(&self.sfb, n, k)?,
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
        let rounding = match D::OUTPUT {
            OutputType::Bf16 => Rounding::Bf16,
            OutputType::F32 => Rounding::F32,
        };
        let got = |row: usize, column: usize| d[row * n + column].into();
        let sample = Sample::spread(m, n, JUDGED.0, JUDGED.1, SEED);
        let verdict =
            Oracle::Bound.check(&self.inputs.operands()?, &Epilogue::store(rounding), &sample, &got)?;
        Ok(Judgement::of_bound(&verdict))
    }
}
