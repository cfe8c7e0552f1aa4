//! A prefill on a device.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{Heads, HeadsMut, MlaPrefill, MlaPrefillArgs, MlaPrefillSpec};
use deepseek_kernels::{DataFaults, Device, Error, Stream, bf16};
use oracles::mla::HeadColumns;

use super::{KeyLayout, MlaPrefillCase, MlaPrefillProblem};
use crate::case::Prepared;
use crate::devices::runs_emulated;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Memory, Operand, Output};
use crate::mla::ROPE;
use crate::mla::lse::{from_order, lse_shape};
use crate::mla::packed::written;

/// A prefill on a device.
pub struct MlaPrefillRun {
    problem: Arc<MlaPrefillProblem>,
    device: Device,
    memory: Memory,
    pub plan: MlaPrefill,
    pub operands: MlaPrefillOperands,
}

pub struct MlaPrefillOperands {
    case: MlaPrefillCase,
    /// Rows of queries, and of keys.
    rows: (usize, usize),
    q: Operand<bf16>,
    keys: KeyOperands,
    q_offsets: IndexOperand,
    k_offsets: IndexOperand,
    out: Operand<bf16>,
    lse: Operand<f32>,
}

/// By the layout of the case.
enum KeyOperands {
    Projected { kv: Operand<bf16>, k_pe: Operand<bf16> },
    Joined { k: Operand<bf16>, v: Operand<bf16> },
}

/// Pieces of `a` columns and of `b`, in turn.
fn joined((a, a_columns): (&[bf16], usize), (b, b_columns): (&[bf16], usize)) -> Vec<bf16> {
    a.chunks_exact(a_columns).zip(b.chunks_exact(b_columns)).flat_map(|(a, b)| [a, b].concat()).collect()
}

impl KeyOperands {
    fn place(arena: &mut Arena<'_>, problem: &MlaPrefillProblem) -> Result<Self> {
        let (keys, heads, aligned) = (problem.spec.keys, problem.spec.heads, Align(16));
        let MlaPrefillProblem { k_nope, k_pe, v, .. } = problem;
        let HeadColumns { nope, value, .. } = problem.case.columns;
        Ok(match problem.case.layout {
            KeyLayout::Projected => {
                let kv = joined((k_nope, nope), (v, value));
                Self::Projected {
                    kv: arena.repeated(&kv, (keys, heads * (nope + value)), aligned)?,
                    k_pe: arena.repeated(k_pe, (keys, ROPE), aligned)?,
                }
            }
            KeyLayout::Joined => {
                let k = joined((k_nope, nope), (k_pe, ROPE));
                Self::Joined {
                    k: arena.repeated(&k, (keys, heads * (nope + ROPE)), aligned)?,
                    v: arena.repeated(v, (keys, heads * value), aligned)?,
                }
            }
        })
    }

    /// Keys, their positions, values.
    fn views(&self, keys: usize, heads: usize, columns: HeadColumns) -> Result<[Heads<'_>; 3], Error> {
        fn view(
            operand: &Operand<bf16>,
            first: usize,
            shape: [usize; 3],
            head_stride: usize,
        ) -> Result<Heads<'_>, Error> {
            Heads::with_columns(operand.slice_from(first), shape, operand.pitch(), head_stride)
        }
        let of = |columns| [keys, heads, columns];
        let HeadColumns { nope, value, .. } = columns;
        Ok(match self {
            Self::Projected { kv, k_pe } => [
                view(kv, 0, of(nope), nope + value)?,
                Heads::new(k_pe.slice(), keys, 1, k_pe.pitch(), ROPE)?,
                view(kv, nope, of(value), nope + value)?,
            ],
            Self::Joined { k, v } => [
                view(k, 0, of(nope), columns.key())?,
                view(k, nope, of(ROPE), columns.key())?,
                view(v, 0, of(value), value)?,
            ],
        })
    }
}

impl MlaPrefillRun {
    /// The operands, on the arena's device.
    ///
    /// # Errors
    /// Of the device, and of the plan.
    pub fn new(problem: Arc<MlaPrefillProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let MlaPrefillProblem { case, spec, .. } = &*problem;
        let plan = MlaPrefill::plan(arena.device(), *spec)?;
        let (tokens, heads, aligned) = (spec.tokens, spec.heads, Align(16));
        let offsets = (1, spec.batch + 1);
        let operands = MlaPrefillOperands {
            case: case.clone(),
            rows: (tokens, spec.keys),
            q: arena.repeated(&problem.q, (tokens, heads * case.columns.key()), aligned)?,
            keys: KeyOperands::place(arena, &problem)?,
            q_offsets: arena.indices(&problem.q_offsets, offsets)?,
            k_offsets: arena.indices(&problem.k_offsets, offsets)?,
            out: arena.output((tokens, heads * case.columns.value), aligned)?,
            lse: arena.output(lse_shape(spec.lse_order, tokens, heads), Align(4))?,
        };
        let (device, memory) = (arena.device().clone(), arena.memory());
        Ok(Self { problem, device, memory, plan, operands })
    }

    /// out and lse, by tokens, whoever's they are.
    pub(super) fn results(&self) -> Result<(Vec<bf16>, Vec<f32>)> {
        let MlaPrefillSpec { heads, lse_order, .. } = self.problem.spec;
        Ok((self.operands.out.values()?, from_order(lse_order, heads, &self.operands.lse.values()?)))
    }

    /// A sequence alone gives the bits that it gives in the batch.
    fn alone(&self) -> Result<Check> {
        let together = self.outputs()?;
        let mut failure = None;
        for sequence in 0..self.problem.spec.batch {
            let tokens = self.problem.ranges(sequence).0.len();
            let alone = Arc::new(self.problem.only(sequence, tokens));
            let mut run = Self::new(alone.clone(), &mut Arena::new(&self.device, self.memory))?;
            run.launch(self.device.stream()?)?;
            if alone.part(&run.outputs()?, 0, tokens) != self.problem.part(&together, sequence, tokens) {
                let differs = || format!("sequence {sequence} alone gives other bits than in the batch");
                failure.get_or_insert_with(differs);
            }
        }
        Ok(Check::equal("batch invariance", together.iter().map(Output::elements).sum(), failure))
    }
}

impl MlaPrefillOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<MlaPrefillArgs<'_>, Error> {
        let ((tokens, keys), heads, columns) = (self.rows, self.case.heads, self.case.columns);
        let (key, value) = (columns.key(), columns.value);
        let [k_nope, k_pe, v] = self.keys.views(keys, heads, columns)?;
        let (q_pitch, out_pitch) = (self.q.pitch(), self.out.pitch());
        Ok(MlaPrefillArgs {
            q: Heads::with_columns(self.q.slice(), [tokens, heads, key], q_pitch, key)?,
            k_nope,
            k_pe,
            v,
            q_offsets: self.q_offsets.indices()?,
            k_offsets: self.k_offsets.indices()?,
            out: HeadsMut::with_columns(self.out.slice_mut(), [tokens, heads, value], out_pitch, value)?,
            lse: self.lse.matrix_mut()?,
        })
    }
}

impl Prepared for MlaPrefillRun {
    fn instance(&self) -> String {
        self.problem.case.kernel()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?, Output::read("lse", &self.operands.lse)?])
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let MlaPrefillOperands { out, lse, .. } = &self.operands;
        // Of a GPU's approximations not every bit is known: there the bound alone holds.
        let thorough = scrutiny == Scrutiny::Thorough;
        let emulated = thorough && runs_emulated(&self.device);
        let (out_values, lse_values) = self.results()?;
        let mut checks = self.problem.judge(&out_values, &lse_values, scrutiny, emulated)?;
        let MlaPrefillSpec { tokens, batch, .. } = self.problem.spec;
        let ranges: Vec<_> = (0..batch).map(|sequence| self.problem.ranges(sequence).0).collect();
        checks.push(written("out", &out_values, tokens, &ranges).and(out.guarded("out")?));
        checks.push(written("lse", &lse_values, tokens, &ranges).and(lse.guarded("lse")?));
        if self.problem.case.alone && thorough {
            checks.push(self.alone()?);
        }
        Ok(checks)
    }

    fn faults(&self) -> DataFaults {
        self.problem.faults()
    }
}
