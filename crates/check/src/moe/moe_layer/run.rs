//! A layer on a device, and its judgement.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{ExpertWeights, MoeLayer, MoeLayerArgs};
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{DataFaults, Error, F8E4M3, Stream, bf16};
use oracles::mla::calc_diff;
use oracles::moe::MoeLayerOutput;

use super::{MoeLayerProblem, Projection};
use crate::case::Prepared;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output};
use crate::moe::expert_map::of_local;

/// The bar for tokens against f64: between rounding every step to its format, about 1e-6, and one wrong expert.
const CALC_DIFF: f64 = 1e-5;

/// A layer on a device.
pub struct MoeLayerRun {
    problem: Arc<MoeLayerProblem>,
    pub plan: MoeLayer,
    pub operands: MoeLayerOperands,
}

pub struct MoeLayerOperands {
    x: Operand<bf16>,
    gate: Operand<f32>,
    bias: Operand<f32>,
    mask: Option<Operand<u32>>,
    local_ids: Option<IndexOperand>,
    gate_up: Weights,
    down: Weights,
    shared: Option<Operand<bf16>>,
    residual: Option<Operand<bf16>>,
    scratch: Operand<u8>,
    out: Operand<bf16>,
}

struct Weights {
    weight: Operand<F8E4M3>,
    scales: Operand<f32>,
}

impl Weights {
    fn new(arena: &mut Arena<'_>, of: &Projection, matrices: usize, (n, k): (usize, usize)) -> Result<Self> {
        let scales = (matrices * n.div_ceil(128), k.div_ceil(128));
        Ok(Self {
            weight: arena.input(&of.weight, (matrices * n, k), Align(16))?,
            scales: arena.input(&of.scales, scales, Align(4))?,
        })
    }

    fn view(&self) -> Result<ExpertWeights<'_>, Error> {
        Ok(ExpertWeights { weight: self.weight.matrix()?, scales: self.scales.matrix()? })
    }
}

impl MoeLayerRun {
    pub fn new(problem: Arc<MoeLayerProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let MoeLayerProblem { case, gate, bias, mask, local_ids, gate_up, down, x, shared, residual } =
            &*problem;
        let GateSpec { tokens, hidden, experts, .. } = case.gate;
        let plan = MoeLayer::plan(arena.device(), case.spec())?;
        let local = case.experts();
        let (gate_up, down) = (
            Weights::new(arena, gate_up, 2 * local, (case.width, hidden))?,
            Weights::new(arena, down, local, (hidden, case.width))?,
        );
        let (rows, aligned) = ((tokens, hidden), Align(16));
        let mut addend =
            |x: &Option<Vec<bf16>>| x.as_ref().map(|x| arena.input(x, rows, aligned)).transpose();
        let operands = MoeLayerOperands {
            gate_up,
            down,
            shared: addend(shared)?,
            residual: addend(residual)?,
            x: arena.input(x, rows, aligned)?,
            gate: arena.input(gate, (experts, hidden), aligned)?,
            bias: arena.list(bias)?,
            mask: mask.as_ref().map(|mask| arena.list(mask)).transpose()?,
            local_ids: of_local(local_ids.as_deref(), arena)?,
            scratch: arena.scratch(plan.scratch_bytes())?,
            out: arena.output(rows, aligned)?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl MoeLayerOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<MoeLayerArgs<'_, f32>, Error> {
        Ok(MoeLayerArgs {
            hidden: self.x.matrix()?,
            gate: self.gate.matrix()?,
            bias: Some(self.bias.vector()?),
            gate_up: self.gate_up.view()?,
            down: self.down.view()?,
            mask: self.mask.as_ref().map(Operand::vector).transpose()?,
            local_ids: self.local_ids.as_ref().map(IndexOperand::indices).transpose()?,
            shared: self.shared.as_ref().map(Operand::matrix).transpose()?,
            residual: self.residual.as_ref().map(Operand::matrix).transpose()?,
            scratch: self.scratch.slice_mut(),
            out: self.out.matrix_mut()?,
        })
    }
}

impl Prepared for MoeLayerRun {
    fn instance(&self) -> String {
        format!("{} launches", self.plan.launches())
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?])
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let mut written = self.outputs()?;
        written.push(Output::read("scratch", &self.operands.scratch)?);
        Ok(written)
    }

    fn faults(&self) -> DataFaults {
        self.problem.faults()
    }

    /// Briefly, the last token by f64: the references take seconds for each of a large layer, and none depends on another.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let GateSpec { tokens, hidden, .. } = self.problem.case.gate;
        let first = if scrutiny == Scrutiny::Brief { tokens.saturating_sub(1) } else { 0 };
        let MoeLayerOutput { bits, exact } = self.problem.expected(first)?;
        let out = &self.operands.out;
        let got: Vec<f32> = out.values()?[first * hidden..].iter().map(|x| x.to_f32()).collect();
        let difference = calc_diff(&exact, &got);
        // A NaN is not near.
        let near = difference <= CALC_DIFF;
        let failure = format!("calc_diff {difference:e} against f64, at most {CALC_DIFF:e}");
        let f64 = Check {
            worst: near.then_some(difference / CALC_DIFF),
            sample: (first > 0).then_some([tokens - first, hidden]),
            ..Check::equal("f64", got.len(), (!near).then_some(failure))
        };
        let written = out.written("out")?.and(self.operands.scratch.guarded("the scratch")?);
        Ok(match scrutiny {
            Scrutiny::Thorough => vec![written, out.equals("bits of the steps", "out", &bits)?, f64],
            Scrutiny::Brief => vec![written, f64],
        })
    }
}
