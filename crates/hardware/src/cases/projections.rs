//! MLA's absorbed projections.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{AbsorbOutputArgs, AbsorbQueryArgs, KvFormat, MlaAbsorb, MlaAbsorbSpec};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Stream, bf16};
use oracles::mla::AttentionClass;
use oracles::mla::{HeadProduct, Side as Product};

use super::{SEED, repeated};
use crate::case::{Case, Judgement, Output, Prepared, Work, unwritten};

const LATENT: usize = KvFormat::LATENT;
const KEY: usize = LATENT + KvFormat::ROPE;
/// Columns of a head's query, of its value, rows of its weight.
const QUERY: usize = 192;
const VALUE: usize = 128;
const HEAD_ROWS: usize = 256;
/// Rows of the weight and of the activations that differ.
const DRAWN: usize = 512;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Queries into the latent space.
    Query,
    /// Attention's results out of it.
    Output,
}

/// One of the projections of all heads.
#[derive(Debug, Clone, Copy)]
pub struct AbsorbCase {
    /// Which.
    pub side: Side,
    /// Tokens.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
}

impl Case for AbsorbCase {
    fn operation(&self) -> &'static str {
        match self.side {
            Side::Query => "mla_absorb_query",
            Side::Output => "mla_absorb_output",
        }
    }

    fn shape(&self) -> String {
        format!("{}x{}", self.tokens, self.heads)
    }

    fn work(&self) -> Work {
        let rows = self.tokens * self.heads;
        Work {
            flops: (2 * rows * VALUE * LATENT) as u64,
            bytes: (2 * (rows * (VALUE + LATENT) + self.heads * VALUE * LATENT)) as u64,
        }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let inputs = Arc::new(Inputs::new(self));
        (0..sets).map(|_| Ok(Box::new(Problem::new(device, *self, inputs.clone())?) as _)).collect()
    }
}

struct Inputs {
    /// `[tokens, heads * 192]` or `[tokens * heads, 512]`.
    x: Vec<bf16>,
    /// `[heads * 256, 512]`.
    w: Vec<bf16>,
}

impl Inputs {
    fn new(case: &AbsorbCase) -> Self {
        let drawn = AttentionClass::Normal.generate(DRAWN, DRAWN, DRAWN, SEED);
        let rows = case.tokens * case.heads;
        let columns = if case.side == Side::Query { QUERY } else { LATENT };
        Self {
            x: repeated(&drawn.q, columns, rows),
            w: repeated(&drawn.keys, LATENT, case.heads * HEAD_ROWS),
        }
    }
}

struct Problem {
    case: AbsorbCase,
    inputs: Arc<Inputs>,
    plan: MlaAbsorb,
    x: Buffer<bf16>,
    w: Buffer<bf16>,
    out: Buffer<bf16>,
}

impl Problem {
    fn new(device: &Device, case: AbsorbCase, inputs: Arc<Inputs>) -> Result<Self> {
        let AbsorbCase { side, tokens, heads } = case;
        let columns = if side == Side::Query { KEY } else { VALUE };
        Ok(Self {
            plan: MlaAbsorb::plan(device, MlaAbsorbSpec { tokens, heads })?,
            x: device.upload(&inputs.x)?,
            w: device.upload(&inputs.w)?,
            out: unwritten(device, tokens * heads * columns)?,
            case,
            inputs,
        })
    }
}

impl Prepared for Problem {
    fn instance(&self) -> String {
        self.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let AbsorbCase { side, tokens, heads } = self.case;
        let w = Matrix::new(&self.w, heads * HEAD_ROWS, LATENT)?;
        match side {
            Side::Query => {
                let q = Matrix::new(&self.x, tokens, heads * QUERY)?;
                let q_latent = MatrixMut::new(&mut self.out, tokens * heads, KEY)?;
                self.plan.run_query(stream, AbsorbQueryArgs { q, w, q_latent })
            }
            Side::Output => {
                let latent = Matrix::new(&self.x, tokens * heads, LATENT)?;
                let out = MatrixMut::new(&mut self.out, tokens, heads * VALUE)?;
                self.plan.run_output(stream, AbsorbOutputArgs { latent, w, out })
            }
        }
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.out)?])
    }

    fn judge(&self) -> Result<Judgement> {
        let AbsorbCase { side, tokens, heads } = self.case;
        // Tokens do not depend on each other; a few of them are a second's work.
        let judged = tokens.min(4);
        let (product, columns) = match side {
            Side::Query => (Product::Query, QUERY),
            Side::Output => (Product::Output, LATENT),
        };
        let x = &self.inputs.x[..judged * heads * columns];
        let product = HeadProduct::new(product, x, &self.inputs.w, judged, heads)?;
        let out = self.out.to_vec()?;
        let got: Vec<bf16> = match side {
            Side::Query => out.chunks(KEY).flat_map(|row| &row[..LATENT]).copied().collect(),
            Side::Output => out,
        };
        let bound = product.bound();
        // A NaN is far from everything.
        let error = |i: usize| match ((got[i].to_f64() - bound[i].0).abs(), bound[i].1) {
            (0.0, _) => 0.0,
            (error, bound) if error.is_nan() => f64::INFINITY.max(bound),
            (error, bound) => error / bound,
        };
        let worst = (0..bound.len()).map(error).fold(0.0, f64::max);
        let failure = (0..bound.len())
            .find(|&i| error(i) > 1.0)
            .map(|i| format!("first [{i}]: expected {:e} +- {:e}, got {:e}", bound[i].0, bound[i].1, got[i]));
        Ok(Judgement { by: "bound", checked: bound.len(), worst, failure })
    }
}
