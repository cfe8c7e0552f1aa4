//! A layer of routed experts: gate, map, gather, two grouped GEMMs with SwiGLU between, combine.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::gemm::{GroupedFp8Gemm, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::moe::{
    ExpertWeights, GateUpSwiglu, GateUpSwigluSpec, MoeLayer, MoeLayerArgs, MoeLayerSpec,
};
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{DataFaults, Device, Error, F8E4M3, Stream, bf16};
use oracles::mla::calc_diff;
use oracles::moe::{ExpertMatrices, MoeLayerModel, MoeLayerOutput, moe_layer};
use oracles::quant::{QuantizeModel, QuantizeScale, quantize_128x128};
use oracles::router::GateOptions;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::gate_map::GateMapCase;
use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::data::repeated;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};
use crate::quant::Rule;
use crate::router::gate::GateCase;
use crate::router::gate_model;

/// A router, and experts of one width.
#[derive(Debug, Clone, Copy)]
pub struct MoeLayerCase {
    pub gate: GateSpec,
    pub width: usize,
    pub clamp: Option<f32>,
    /// Of the scales of activations.
    pub rule: Rule,
    /// With a mask that makes every fifth token padding.
    pub mask: bool,
    /// Whether the output of shared experts is added.
    pub shared: bool,
    /// Whether a residual is added.
    pub residual: bool,
    /// All experts have the same weights, each its own memory, of which few rows differ: they are drawn in no time.
    pub repeated: bool,
    pub seed: u64,
}

/// Rows of a projection that differ: whole blocks of scales.
const DRAWN: usize = 256;
/// The bar for tokens against f64: between rounding every step to its format, about 1e-6, and one wrong expert.
const CALC_DIFF: f64 = 1e-5;

impl MoeLayerCase {
    /// Powers of two, shared experts and a residual.
    pub const fn new(gate: GateSpec, width: usize) -> Self {
        Self {
            gate,
            width,
            clamp: None,
            rule: Rule::POWER_OF_TWO,
            mask: false,
            shared: true,
            residual: true,
            repeated: false,
            seed: 1,
        }
    }

    fn spec(&self) -> MoeLayerSpec {
        let Self { gate, width: intermediate, clamp, rule, .. } = *self;
        MoeLayerSpec::new(gate, intermediate).clamp(clamp).rule(rule.rule())
    }

    /// Gate and map by themselves.
    fn choice(&self) -> GateMapCase {
        GateMapCase::new(GateCase::new(self.gate))
    }

    /// The kernels behind them.
    fn behind_choice(&self, device: &Device) -> Result<Vec<String>> {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        let segments = Segments::Ragged { rows: tokens * top_k };
        let gate_up = GateUpSwigluSpec::new(experts, self.width, hidden, segments);
        let down = GroupedFp8GemmSpec::new(experts, hidden, self.width, segments);
        let around = ["gather_quantize", "combine"].map(str::to_owned);
        let gemms =
            [GateUpSwiglu::plan(device, gate_up)?.tuning(), GroupedFp8Gemm::plan(device, down)?.tuning()];
        Ok(around.into_iter().chain(gemms.map(|tuning| tuning.to_string())).collect())
    }

    /// With its inputs.
    pub fn problem(self) -> Result<MoeLayerProblem> {
        let GateSpec { tokens, hidden, experts, .. } = self.gate;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let uniform = |rng: &mut Xoshiro256PlusPlus, len: usize, size: f32| {
            (0..len).map(|_| bf16::from_f32(size * rng.random_range(-1.0..1.0))).collect::<Vec<_>>()
        };
        let mut projection = |matrices: usize, n: usize, k: usize| {
            // Sums of k products have the size of one.
            let size = (3.0 / k as f32).sqrt();
            let (alike, rows) = if self.repeated { (matrices, n.min(DRAWN)) } else { (1, n) };
            let mut drawn = Projection::default();
            for _ in 0..matrices.div_ceil(alike.max(1)) {
                let x = uniform(&mut rng, rows * k, size);
                let quantised =
                    quantize_128x128(&x, rows, k, k, QuantizeModel::tile_kernels(QuantizeScale::Fp32))?;
                drawn.weight.extend(quantised.q);
                drawn.scales.extend(quantised.sf);
            }
            Ok::<_, anyhow::Error>(Projection {
                weight: repeated(&drawn.weight, k, matrices * n),
                scales: repeated(&drawn.scales, k.div_ceil(128), matrices * n.div_ceil(128)),
            })
        };
        // Gate and up are matrices of their own.
        let gate_up = projection(2 * experts, self.width, hidden)?;
        let down = projection(experts, hidden, self.width)?;
        let size = 3.0 / (hidden as f32).sqrt();
        Ok(MoeLayerProblem {
            gate: (0..experts * hidden).map(|_| rng.random_range(-size..size)).collect(),
            bias: (0..experts).map(|_| rng.random_range(-1.5..-0.5)).collect(),
            mask: self.mask.then(|| (0..tokens as u32).map(|t| t % 5).collect()),
            gate_up,
            down,
            x: uniform(&mut rng, tokens * hidden, 1.7),
            shared: self.shared.then(|| uniform(&mut rng, tokens * hidden, 1.7)),
            residual: self.residual.then(|| uniform(&mut rng, tokens * hidden, 1.7)),
            case: self,
        })
    }
}

impl Case for MoeLayerCase {
    fn operation(&self) -> &'static str {
        "moe_layer"
    }

    fn title(&self) -> String {
        let options = if self.mask { ", some tokens padding" } else { "" };
        format!("MoE layer, {} of {} experts{options}", self.gate.top_k, self.gate.experts)
    }

    fn shape(&self) -> String {
        format!("{} x {} x {}", self.gate.tokens, self.width, self.gate.hidden)
    }

    fn label(&self) -> String {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        let options = if self.mask { "_mask" } else { "" };
        format!("{tokens}x{hidden}x{}_{top_k}of{experts}{options}", self.width)
    }

    fn data(&self) -> String {
        "uniform".to_owned()
    }

    fn work(&self) -> Work {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        // Every expert's weights, unless there are fewer routes than experts.
        let weights = experts.min(tokens * top_k) * 3 * hidden * self.width;
        let bytes = weights + 4 * experts * hidden + 4 * tokens * hidden;
        Work { flops: (6 * tokens * top_k * hidden * self.width) as u64, bytes: bytes as u64 }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        Ok([self.choice().kernels(device)?, self.behind_choice(device)?].concat())
    }

    fn launched(&self, device: &Device) -> Result<Vec<String>> {
        Ok([self.choice().launched(device)?, self.behind_choice(device)?].concat())
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// The experts' matrices of one projection, below each other.
#[derive(Debug, Clone, Default)]
pub struct Projection {
    pub weight: Vec<F8E4M3>,
    pub scales: Vec<f32>,
}

impl Projection {
    fn model(&self) -> ExpertMatrices<'_> {
        ExpertMatrices { weight: &self.weight, scales: &self.scales }
    }
}

/// A layer with its weights and its tokens.
#[derive(Debug, Clone)]
pub struct MoeLayerProblem {
    pub case: MoeLayerCase,
    pub gate: Vec<f32>,
    pub bias: Vec<f32>,
    pub mask: Option<Vec<u32>>,
    pub gate_up: Projection,
    pub down: Projection,
    pub x: Vec<bf16>,
    pub shared: Option<Vec<bf16>>,
    pub residual: Option<Vec<bf16>>,
}

impl MoeLayerProblem {
    /// What a run has to report: of the router all hidden states that are not finite, and a bias that does not merely leave an
    /// expert out; of the quantiser Inf, for a NaN goes to no expert. Nothing of padding. The weights are finite.
    fn faults(&self) -> DataFaults {
        let live = |t: &usize| self.mask.as_ref().is_none_or(|mask| mask[*t] != 0);
        let GateSpec { tokens, hidden, .. } = self.case.gate;
        let rows = || (0..tokens).filter(live).map(|t| &self.x[t * hidden..][..hidden]);
        let finite = |row: &[bf16]| row.iter().all(|x| x.is_finite());
        let routed = |row: &[bf16]| !row.iter().any(|x| x.is_nan());
        let sane = rows().next().is_none() || self.bias.iter().all(|&bias| bias < f32::INFINITY);
        let served = self.bias.iter().any(|&bias| bias > f32::NEG_INFINITY);
        let quantised = served && rows().any(|row| !finite(row) && routed(row));
        fault_if(!sane || !rows().all(finite), DataFaults::NONFINITE_SCORE)
            | fault_if(quantised, DataFaults::NONFINITE_INPUT)
    }

    /// Tokens from `first` on.
    fn expected(&self, first: usize) -> Result<MoeLayerOutput> {
        let MoeLayerCase { gate, width, clamp, rule, .. } = self.case;
        let model = MoeLayerModel {
            gate: gate_model(&gate),
            gate_weight: &self.gate,
            options: GateOptions {
                bias: Some(&self.bias),
                mask: self.mask.as_ref().map(|mask| &mask[first..]),
                fixed_ids: None,
            },
            hidden: gate.hidden,
            intermediate: width,
            gate_up: self.gate_up.model(),
            down: self.down.model(),
            clamp,
            quantize: rule.model(),
        };
        let from = |x: &[bf16]| x[first * gate.hidden..].to_vec();
        let (shared, residual) = (self.shared.as_deref().map(from), self.residual.as_deref().map(from));
        Ok(moe_layer(&model, &from(&self.x), shared.as_deref(), residual.as_deref())?)
    }
}

impl Problem for MoeLayerProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(MoeLayerRun::new(self, arena)?))
    }
}

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
        let MoeLayerProblem { case, gate, bias, mask, gate_up, down, x, shared, residual } = &*problem;
        let GateSpec { tokens, hidden, experts, .. } = case.gate;
        let plan = MoeLayer::plan(arena.device(), case.spec())?;
        let (gate_up, down) = (
            Weights::new(arena, gate_up, 2 * experts, (case.width, hidden))?,
            Weights::new(arena, down, experts, (hidden, case.width))?,
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
