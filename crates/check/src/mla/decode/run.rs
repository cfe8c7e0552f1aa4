//! A step on a device.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{KvPaging, MlaDecode, MlaDecodeArgs};
use deepseek_kernels::{DataFaults, Device, Error, Matrix, MatrixMut, Stream, bf16};

use super::{Launches, MlaDecodeProblem};
use crate::case::Prepared;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Memory, Operand, Output, Rows};
use crate::mla::cache::CacheOperand;
use crate::mla::{KEY, LATENT};

/// A step on a device.
pub struct MlaDecodeRun {
    problem: Arc<MlaDecodeProblem>,
    device: Device,
    memory: Memory,
    pub plan: MlaDecodePlan,
    pub operands: MlaDecodeOperands,
}

/// The plan, which takes all operands at once.
pub struct MlaDecodePlan {
    pub decode: MlaDecode,
    launches: Launches,
}

pub struct MlaDecodeCall<'a> {
    pub lengths: Matrix<'a, i32>,
    pub tables: MatrixMut<'a, u32>,
    pub args: MlaDecodeArgs<'a>,
}

pub struct MlaDecodeOperands {
    lengths: Operand<i32>,
    tables: Operand<u32>,
    q: Operand<bf16>,
    cache: CacheOperand,
    page_table: Option<Operand<i32>>,
    partials: Operand<f32>,
    pub(super) out: Operand<bf16>,
    pub(super) lse: Operand<f32>,
}

impl MlaDecodePlan {
    /// Enqueues the step.
    ///
    /// # Errors
    /// Of the launches.
    pub fn run(&self, stream: Stream<'_>, call: MlaDecodeCall<'_>) -> Result<(), Error> {
        let MlaDecodeCall { lengths, tables, args } = call;
        match self.launches {
            Launches::Whole => self.decode.run(stream, lengths, tables, args),
            Launches::Apart => {
                let mut splits = self.decode.schedule(stream, lengths, tables)?;
                self.decode.attend(stream, &mut splits, args)
            }
        }
    }
}

impl MlaDecodeRun {
    pub fn new(problem: Arc<MlaDecodeProblem>, device: &Device, memory: Memory) -> Result<Self> {
        let MlaDecodeProblem { case, spec, .. } = &*problem;
        let decode = case.plan(device, *spec)?;
        let tokens = spec.batch * spec.q_tokens;
        let (rows, aligned) = (tokens * spec.heads, Rows::Aligned(16));
        let (cache_rows, columns) = match spec.paging {
            KvPaging::Paged { pages, page_size, pages_per_sequence } => {
                (pages * page_size, Some(pages_per_sequence))
            }
            KvPaging::Contiguous { capacity } => (spec.batch * capacity, None),
        };
        let mut arena = Arena::new(device, memory);
        let table = |columns| arena.input(&problem.table, (spec.batch, columns), Rows::Aligned(4));
        let operands = MlaDecodeOperands {
            page_table: columns.map(table).transpose()?,
            lengths: arena.list(&problem.lengths)?,
            tables: arena.output((1, decode.tables()), Rows::Packed(8))?,
            q: arena.input(&problem.q, (rows, KEY), aligned)?,
            cache: CacheOperand::input(&mut arena, cache_rows, &problem.cache)?,
            partials: arena.output((1, decode.partials()), Rows::Packed(16))?,
            out: arena.output((rows, LATENT), aligned)?,
            lse: arena.output((tokens, spec.heads), Rows::Packed(4))?,
        };
        let plan = MlaDecodePlan { decode, launches: case.launches };
        Ok(Self { problem, device: device.clone(), memory, plan, operands })
    }

    /// A sequence alone gives the bits that it gives in the batch.
    fn alone(&self) -> Result<Check> {
        let together = self.outputs()?;
        let mut failure = None;
        for sequence in 0..self.problem.spec.batch {
            let alone = Arc::new(self.problem.only(sequence));
            let mut run = Self::new(alone.clone(), &self.device, self.memory)?;
            run.launch(self.device.stream()?)?;
            if alone.part(&run.outputs()?, 0) != self.problem.part(&together, sequence) {
                let differs = || format!("sequence {sequence} alone gives other bits than in the batch");
                failure.get_or_insert_with(differs);
            }
        }
        Ok(Check::equal("batch invariance", together.iter().map(Output::elements).sum(), failure))
    }
}

impl MlaDecodeOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<MlaDecodeCall<'_>, Error> {
        Ok(MlaDecodeCall {
            lengths: self.lengths.matrix()?,
            tables: self.tables.matrix_mut()?,
            args: MlaDecodeArgs {
                q: self.q.matrix()?,
                cache: self.cache.view()?,
                page_table: self.page_table.as_ref().map(Operand::matrix).transpose()?,
                partials: self.partials.matrix_mut()?,
                out: self.out.matrix_mut()?,
                lse: self.lse.matrix_mut()?,
            },
        })
    }
}

impl Prepared for MlaDecodeRun {
    fn instance(&self) -> String {
        let choice = self.plan.decode.choice();
        format!("{} (up to {} splits)", choice.instance.name(), choice.max_splits)
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?, Output::read("lse", &self.operands.lse)?])
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let MlaDecodeOperands { tables, partials, .. } = &self.operands;
        let mut written = self.outputs()?;
        written.extend([Output::read("tables", tables)?, Output::read("partials", partials)?]);
        Ok(written)
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let MlaDecodeOperands { tables, partials, out, lse, .. } = &self.operands;
        let mut checks = self.problem.judge(&out.values()?, &lse.values()?, scrutiny)?;
        checks.push(out.written("out")?.and(lse.written("lse")?));
        checks.push(tables.guarded("tables")?.and(partials.guarded("partials")?));
        if self.problem.case.alone && scrutiny == Scrutiny::Thorough {
            checks.push(self.alone()?);
        }
        Ok(checks)
    }

    fn faults(&self) -> DataFaults {
        self.problem.faults()
    }
}
