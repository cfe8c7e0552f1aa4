//! The quantisers and the transposition of scales: one right result each, to the bit.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut,
    Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::quant::quantizer_rows;
use oracles::quant::{QuantizeScale, Quantized, quantize_1x128, quantize_128x128};

use super::{SEED, repeated};
use crate::case::{Case, Judgement, Output, Prepared, Work, unwritten};

/// What is quantised, or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantizer {
    /// One scale per 1x128.
    Rows,
    /// One scale per 128x128.
    Blocks,
    /// Scales `[rows, k/128]` to `[k/128, rows]`.
    Transpose,
}

/// One launch on a matrix.
#[derive(Debug, Clone, Copy)]
pub struct QuantizeCase {
    /// Which kernel.
    pub quantizer: Quantizer,
    /// Rows, a multiple of 4.
    pub rows: usize,
    /// Columns.
    pub k: usize,
}

/// Rows that differ, whole blocks of scales; their special values are the input of every quantiser's test.
const DRAWN: usize = 256;

impl QuantizeCase {
    fn scales(&self) -> usize {
        let lines = if self.quantizer == Quantizer::Blocks { self.rows.div_ceil(128) } else { self.rows };
        lines * (self.k / 128)
    }
}

impl Case for QuantizeCase {
    fn operation(&self) -> &'static str {
        match self.quantizer {
            Quantizer::Rows => "quantize_1x128",
            Quantizer::Blocks => "quantize_128x128",
            Quantizer::Transpose => "transpose_scales",
        }
    }

    fn shape(&self) -> String {
        format!("{}x{}", self.rows, self.k)
    }

    fn work(&self) -> Work {
        let bytes = match self.quantizer {
            Quantizer::Transpose => 8 * self.scales(),
            _ => 3 * self.rows * self.k + 4 * self.scales(),
        };
        Work { flops: 0, bytes: bytes as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let Self { rows, k, .. } = *self;
        if self.quantizer == Quantizer::Transpose {
            return (0..sets).map(|_| Ok(Box::new(Transposition::new(device, *self)?) as _)).collect();
        }
        let drawn = rows.min(DRAWN);
        let x = quantizer_rows(drawn, k, SEED);
        let (x, expected) = match self.quantizer {
            Quantizer::Blocks => (x.clone(), quantize_128x128(&x, drawn, k, k, QuantizeScale::PowerOfTwo)?),
            _ => (x.clone(), quantize_1x128(&x, drawn, k, k, QuantizeScale::PowerOfTwo)?),
        };
        let problem = Arc::new((repeated(&x, k, rows), expected));
        (0..sets).map(|_| Ok(Box::new(Quantization::new(device, *self, problem.clone())?) as _)).collect()
    }
}

enum Plan {
    Rows(Quantize1x128),
    Blocks(Quantize128x128),
}

struct Quantization {
    case: QuantizeCase,
    /// X, and what its first rows become.
    problem: Arc<(Vec<bf16>, Quantized)>,
    plan: Plan,
    x: Buffer<bf16>,
    q: Buffer<F8E4M3>,
    sf: Buffer<f32>,
}

impl Quantization {
    fn new(device: &Device, case: QuantizeCase, problem: Arc<(Vec<bf16>, Quantized)>) -> Result<Self> {
        let QuantizeCase { quantizer, rows, k } = case;
        let spec = QuantizeSpec { rows, k, format: ScaleFormat::PowerOfTwo };
        Ok(Self {
            plan: match quantizer {
                Quantizer::Blocks => Plan::Blocks(Quantize128x128::plan(device, spec)?),
                _ => Plan::Rows(Quantize1x128::plan(device, spec)?),
            },
            x: device.upload(&problem.0)?,
            q: unwritten(device, rows * k)?,
            sf: unwritten(device, case.scales())?,
            case,
            problem,
        })
    }
}

impl Prepared for Quantization {
    fn instance(&self) -> String {
        self.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let QuantizeCase { rows, k, .. } = self.case;
        let (x, q) = (Matrix::new(&self.x, rows, k)?, MatrixMut::new(&mut self.q, rows, k)?);
        match &self.plan {
            Plan::Rows(plan) => plan.run(stream, x, q, Scales1x128Mut::<MMajor>::new(&mut self.sf, rows, k)?),
            Plan::Blocks(plan) => plan.run(stream, x, q, Scales128x128Mut::new(&mut self.sf, rows, k)?),
        }
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("q", &self.q)?, Output::read("sf", &self.sf)?])
    }

    fn judge(&self) -> Result<Judgement> {
        let QuantizeCase { quantizer, rows, k } = self.case;
        let expected = &self.problem.1;
        let lines = match quantizer {
            Quantizer::Blocks => repeated(&expected.sf, k / 128, rows.div_ceil(128)),
            _ => expected.sf.chunks(rows.min(DRAWN)).flat_map(|line| repeated(line, 1, rows)).collect(),
        };
        let codes = Judgement::of_bits(&self.q.to_vec()?, &repeated(&expected.q, k, rows));
        Ok(codes.and(Judgement::of_bits(&self.sf.to_vec()?, &lines)))
    }
}

struct Transposition {
    case: QuantizeCase,
    plan: TransposeScales,
    sf: Buffer<f32>,
    out: Buffer<f32>,
}

impl Transposition {
    fn new(device: &Device, case: QuantizeCase) -> Result<Self> {
        let sf: Vec<f32> = (0..case.scales()).map(|i| i as f32).collect();
        Ok(Self {
            plan: TransposeScales::plan(device, case.rows, case.k)?,
            sf: device.upload(&sf)?,
            out: unwritten(device, case.scales())?,
            case,
        })
    }
}

impl Prepared for Transposition {
    fn instance(&self) -> String {
        self.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let QuantizeCase { rows, k, .. } = self.case;
        let sf = Scales1x128::<RowMajor>::new(&self.sf, rows, k)?;
        self.plan.run(stream, sf, Scales1x128Mut::<MMajor>::new(&mut self.out, rows, k)?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.out)?])
    }

    fn judge(&self) -> Result<Judgement> {
        let columns = self.case.k / 128;
        let of_column = |column| (0..self.case.rows).map(move |row| (row * columns + column) as f32);
        let expected: Vec<f32> = (0..columns).flat_map(of_column).collect();
        Ok(Judgement::of_bits(&self.out.to_vec()?, &expected))
    }
}
