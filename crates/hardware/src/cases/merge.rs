//! Merging the attention over two parts of the keys.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{AttentionState, AttentionStateMut, KvFormat, MergeStates, MergeStatesSpec};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::Output as Rounding;
use oracles::mla::AttentionClass;
use oracles::mla::{State, merge_states};

use super::SEED;
use crate::case::{Case, Judgement, Output, Prepared, Work, unwritten};

const LATENT: usize = KvFormat::LATENT;

/// Two states in BF16, whose distances go from nothing to hopeless; some are empty.
#[derive(Debug, Clone, Copy)]
pub struct MergeCase {
    /// Rows of lse.
    pub tokens: usize,
    /// Columns of lse.
    pub heads: usize,
}

impl MergeCase {
    fn rows(&self) -> usize {
        self.tokens * self.heads
    }
}

impl Case for MergeCase {
    fn operation(&self) -> &'static str {
        "merge_states"
    }

    fn shape(&self) -> String {
        format!("{}x{}", self.tokens, self.heads)
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (3 * self.rows() * (2 * LATENT + 4)) as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let parts = Arc::new([0, 1].map(|part| Part::new(self.rows(), part)));
        (0..sets).map(|_| Ok(Box::new(Problem::new(device, *self, parts.clone())?) as _)).collect()
    }
}

struct Part {
    o: Vec<bf16>,
    lse: Vec<f32>,
}

impl Part {
    fn new(rows: usize, part: u8) -> Self {
        let lse = |row: usize| match row % 11 {
            10 => f32::NEG_INFINITY,
            kind => (row as f32 * 0.37).sin() * kind as f32 * f32::from(9 * part + 1),
        };
        let drawn = AttentionClass::Normal.generate(rows, 0, 0, SEED + u64::from(part)).q;
        let o = drawn.chunks_exact(LATENT + KvFormat::ROPE).flat_map(|row| &row[..LATENT]).copied().collect();
        Self { o, lse: (0..rows).map(lse).collect() }
    }
}

struct Problem {
    case: MergeCase,
    parts: Arc<[Part; 2]>,
    plan: MergeStates<bf16>,
    inputs: [(Buffer<bf16>, Buffer<f32>); 2],
    o: Buffer<bf16>,
    lse: Buffer<f32>,
}

impl Problem {
    fn new(device: &Device, case: MergeCase, parts: Arc<[Part; 2]>) -> Result<Self> {
        let MergeCase { tokens, heads } = case;
        let upload = |part: &Part| anyhow::Ok((device.upload(&part.o)?, device.upload(&part.lse)?));
        Ok(Self {
            plan: MergeStates::plan(device, MergeStatesSpec { tokens, heads, infinity_is_empty: false })?,
            inputs: [upload(&parts[0])?, upload(&parts[1])?],
            o: unwritten(device, case.rows() * LATENT)?,
            lse: unwritten(device, case.rows())?,
            case,
            parts,
        })
    }
}

impl Prepared for Problem {
    fn instance(&self) -> String {
        self.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let (MergeCase { tokens, heads }, rows) = (self.case, self.case.rows());
        let state = |(o, lse)| -> deepseek_kernels::Result<_> {
            Ok(AttentionState { o: Matrix::new(o, rows, LATENT)?, lse: Matrix::new(lse, tokens, heads)? })
        };
        let [(o0, lse0), (o1, lse1)] = &self.inputs;
        let parts = [state((o0, lse0))?, state((o1, lse1))?];
        let out = AttentionStateMut {
            o: MatrixMut::new(&mut self.o, rows, LATENT)?,
            lse: MatrixMut::new(&mut self.lse, tokens, heads)?,
        };
        self.plan.run(stream, parts, out)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("o", &self.o)?, Output::read("lse", &self.lse)?])
    }

    fn judge(&self) -> Result<Judgement> {
        let wide = self.parts.each_ref().map(|part| part.o.iter().map(|x| x.to_f32()).collect::<Vec<f32>>());
        let states = [0, 1].map(|i| State { o: &wide[i], lse: &self.parts[i].lse });
        let (o, lse) = merge_states(states, LATENT, false, Rounding::Bf16)?;
        let o: Vec<bf16> = o.into_iter().map(bf16::from_f32).collect();
        Ok(Judgement::of_bits(&self.o.to_vec()?, &o).and(Judgement::of_bits(&self.lse.to_vec()?, &lse)))
    }
}
