//! A step on a device.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{KvPaging, MlaAttendArgs, MlaDecode, MlaDecodeArgs, MlaScheduleArgs};
use deepseek_kernels::{DataFaults, Device, Error, Stream, bf16};

use super::{Launches, MlaDecodeProblem};
use crate::anatomy::Anatomy;
use crate::case::Prepared;
use crate::devices::runs_emulated;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Memory, Operand, Output};
use crate::mla::LATENT;
use crate::mla::cache::CacheOperand;
use crate::mla::lse::{from_order, lse_shape};
use crate::mla::packed::written;

/// A step on a device.
pub struct MlaDecodeRun {
    pub(super) problem: Arc<MlaDecodeProblem>,
    device: Device,
    memory: Memory,
    pub plan: MlaDecodePlan,
    pub operands: MlaDecodeOperands,
}

/// The plan, which runs at once or in two calls.
pub struct MlaDecodePlan {
    pub decode: MlaDecode,
    launches: Launches,
}

pub struct MlaDecodeOperands {
    lengths: IndexOperand,
    q_offsets: Option<IndexOperand>,
    tables: Operand<u32>,
    q: Operand<bf16>,
    cache: CacheOperand,
    page_table: Option<IndexOperand>,
    scratch: Operand<u8>,
    pub(super) out: Operand<bf16>,
    pub(super) lse: Operand<f32>,
}

impl MlaDecodePlan {
    /// Enqueues the step.
    ///
    /// # Errors
    /// Of the launches.
    pub fn run(&self, stream: Stream<'_>, args: MlaDecodeArgs<'_>) -> Result<(), Error> {
        match self.launches {
            Launches::Whole => self.decode.run(stream, args),
            Launches::Apart => {
                let mut splits = self.decode.schedule(stream, args.schedule)?;
                self.decode.attend(stream, &mut splits, args.attend)
            }
        }
    }
}

impl MlaDecodeRun {
    pub fn new(problem: Arc<MlaDecodeProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let MlaDecodeProblem { case, spec, .. } = &*problem;
        let decode = case.plan(arena.device(), *spec)?;
        let tokens = problem.tokens();
        let (rows, aligned) = (tokens * spec.heads, Align(16));
        let (pages, page_size, columns) = match spec.paging {
            KvPaging::Paged { pages, page_size, pages_per_sequence } => {
                (pages, page_size, Some(pages_per_sequence))
            }
            KvPaging::Contiguous { capacity } => (spec.batch, capacity, None),
        };
        let (keys, together) = (pages * page_size, if case.pages_apart { page_size } else { 1 });
        let cache_shape = (keys / together, together * spec.format.columns(spec.rope));
        let offsets = |offsets: &Vec<i32>| arena.indices(offsets, (1, spec.batch + 1));
        let q_offsets = problem.q_offsets.as_ref().map(offsets).transpose()?;
        let table = |columns| arena.indices(&problem.table, (spec.batch, columns));
        let operands = MlaDecodeOperands {
            q_offsets,
            page_table: columns.map(table).transpose()?,
            lengths: arena.indices(&problem.lengths, (1, spec.batch))?,
            tables: arena.output((1, decode.tables()), Align(8))?,
            q: arena.input(&problem.q, (rows, LATENT + spec.rope), aligned)?,
            cache: CacheOperand::input(arena, cache_shape, &problem.cache)?,
            scratch: arena.scratch(decode.scratch_bytes())?,
            out: arena.output((rows, LATENT), aligned)?,
            lse: arena.output(lse_shape(spec.lse_order, tokens, spec.heads), Align(4))?,
        };
        let plan = MlaDecodePlan { decode, launches: case.launches };
        let (device, memory) = (arena.device().clone(), arena.memory());
        Ok(Self { problem, device, memory, plan, operands })
    }

    /// A sequence alone gives the bits that it gives in the batch.
    fn alone(&self) -> Result<Check> {
        let together = self.outputs()?;
        let mut failure = None;
        let asked = |&sequence: &usize| !self.problem.queries(sequence).is_empty();
        for sequence in (0..self.problem.spec.batch).filter(asked) {
            let alone = Arc::new(self.problem.only(sequence));
            let mut run = Self::new(alone.clone(), &mut Arena::new(&self.device, self.memory))?;
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
    pub fn args(&mut self) -> Result<MlaDecodeArgs<'_>, Error> {
        Ok(MlaDecodeArgs {
            schedule: MlaScheduleArgs {
                lengths: self.lengths.indices()?,
                q_offsets: self.q_offsets.as_ref().map(IndexOperand::indices).transpose()?,
                tables: self.tables.vector_mut()?,
            },
            attend: MlaAttendArgs {
                q: self.q.matrix()?,
                cache: self.cache.view()?,
                page_table: self.page_table.as_ref().map(IndexOperand::indices).transpose()?,
                scratch: self.scratch.slice_mut(),
                out: self.out.matrix_mut()?,
                lse: self.lse.matrix_mut()?,
            },
        })
    }
}

impl Prepared for MlaDecodeRun {
    fn instance(&self) -> String {
        let spec = self.plan.decode.spec();
        let splits = spec.capacity().div_ceil(spec.split_keys).max(1);
        format!("{} (up to {splits} splits)", self.plan.decode.tuning())
    }

    fn reason(&self) -> Option<String> {
        Some(self.plan.decode.choice().to_string())
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?, Output::read("lse", &self.operands.lse)?])
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let MlaDecodeOperands { tables, scratch, .. } = &self.operands;
        let mut written = self.outputs()?;
        written.extend([Output::read("tables", tables)?, Output::read("scratch", scratch)?]);
        Ok(written)
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let MlaDecodeOperands { tables, scratch, out, lse, .. } = &self.operands;
        let spec = self.plan.decode.spec();
        let (out_values, lse_values) =
            (out.values()?, from_order(spec.lse_order, spec.heads, &lse.values()?));
        let mut checks = self.problem.judge(&out_values, &lse_values, scrutiny)?;
        // Of a GPU's approximations not every bit is known: there the bound alone holds.
        if scrutiny == Scrutiny::Thorough && runs_emulated(&self.device) {
            checks.extend(self.problem.judge_bits(&out_values, &lse_values)?);
        }
        let tokens = self.problem.tokens();
        let ranges: Vec<_> = (0..spec.batch).map(|sequence| self.problem.queries(sequence)).collect();
        let written =
            written("out", &out_values, tokens, &ranges).and(written("lse", &lse_values, tokens, &ranges));
        checks.push(written.and(out.guarded("out")?).and(lse.guarded("lse")?));
        checks.push(tables.guarded("tables")?.and(scratch.guarded("the scratch")?));
        if self.problem.case.alone && scrutiny == Scrutiny::Thorough {
            checks.push(self.alone()?);
        }
        Ok(checks)
    }

    fn anatomy(&self) -> Option<&dyn Anatomy> {
        Some(self)
    }

    fn faults(&self) -> DataFaults {
        self.problem.faults()
    }
}
