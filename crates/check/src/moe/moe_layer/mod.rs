//! A layer of routed experts: gate, map, gather, two grouped GEMMs with SwiGLU between, combine.

mod run;

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::gemm::{GroupedFp8Gemm, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::moe::{GateUpOrder, GateUpSwiglu, GateUpSwigluSpec, MoeLayerSpec};
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{DataFaults, Device, F8E4M3, bf16};
use oracles::moe::{ExpertMatrices, MoeLayerModel, MoeLayerOutput, moe_layer};
use oracles::quant::{QuantizeModel, QuantizeScale, quantize_128x128};
use oracles::router::GateOptions;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::gate_map::GateMapCase;
use super::swiglu_model;
use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::data::repeated;
use crate::memory::Arena;
use crate::quant::Rule;
use crate::router::gate::GateCase;
use crate::router::gate_model;

pub use run::MoeLayerRun;

/// A router, and experts of one width.
#[derive(Debug, Clone, Copy)]
pub struct MoeLayerCase {
    pub gate: GateSpec,
    /// Experts that are here, if not all are.
    pub local: Option<usize>,
    pub width: usize,
    pub clamp: Option<f32>,
    /// Of the scales of activations.
    pub rule: Rule,
    pub order: GateUpOrder,
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

impl MoeLayerCase {
    /// Gate first, powers of two, shared experts and a residual.
    pub const fn new(gate: GateSpec, width: usize) -> Self {
        Self {
            gate,
            local: None,
            width,
            clamp: None,
            rule: Rule::POWER_OF_TWO,
            order: GateUpOrder::GateFirst,
            mask: false,
            shared: true,
            residual: true,
            repeated: false,
            seed: 1,
        }
    }

    fn spec(&self) -> MoeLayerSpec {
        let Self { gate, width: intermediate, local, clamp, rule, order, .. } = *self;
        let spec = MoeLayerSpec::new(gate, intermediate).local_experts(local);
        spec.clamp(clamp).rule(rule.rule()).order(order)
    }

    /// Gate and map by themselves.
    fn choice(&self) -> GateMapCase {
        GateMapCase {
            local: self.local,
            ..GateMapCase::new(GateCase { seed: self.seed, ..GateCase::new(self.gate) })
        }
    }

    /// Experts that are here.
    fn experts(&self) -> usize {
        self.choice().spec().map().local()
    }

    /// What is special about it.
    fn options(&self) -> String {
        let options =
            [self.mask.then(|| "_mask".to_owned()), self.local.map(|local| format!("_local{local}"))];
        options.into_iter().flatten().collect()
    }

    /// The kernels behind them.
    fn behind_choice(&self, device: &Device) -> Result<Vec<String>> {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        let (segments, local) = (Segments::Ragged { rows: tokens * top_k }, self.experts());
        let expected_rows = (tokens * top_k).div_ceil(experts.max(1));
        let gate_up = GateUpSwigluSpec::new(local, self.width, hidden, segments).expected_rows(expected_rows);
        let down = GroupedFp8GemmSpec::new(local, hidden, self.width, segments).expected_rows(expected_rows);
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
        let local = self.experts();
        let gate_up = projection(2 * local, self.width, hidden)?;
        let down = projection(local, hidden, self.width)?;
        let size = 3.0 / (hidden as f32).sqrt();
        Ok(MoeLayerProblem {
            gate: (0..experts * hidden).map(|_| rng.random_range(-size..size)).collect(),
            bias: (0..experts).map(|_| rng.random_range(-1.5..-0.5)).collect(),
            mask: self.mask.then(|| (0..tokens as u32).map(|t| t % 5).collect()),
            local_ids: self.choice().local_ids(),
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
        let padding = if self.mask { ", some tokens padding" } else { "" };
        let local = if self.local.is_some() { ", some experts elsewhere" } else { "" };
        format!("MoE layer, {} of {} experts{padding}{local}", self.gate.top_k, self.gate.experts)
    }

    fn shape(&self) -> String {
        format!("{} x {} x {}", self.gate.tokens, self.width, self.gate.hidden)
    }

    fn label(&self) -> String {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        format!("{tokens}x{hidden}x{}_{top_k}of{experts}{}", self.width, self.options())
    }

    fn data(&self) -> String {
        "uniform".to_owned()
    }

    fn work(&self) -> Work {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        // The weights of as many experts as tokens that choose evenly hit on average.
        let missed = (1.0 - top_k as f64 / experts.max(1) as f64).powi(tokens as i32);
        let hit = (self.experts() as f64 * (1.0 - missed)) as usize;
        let weights = hit * 3 * hidden * self.width;
        let bytes = weights + 4 * experts * hidden + 4 * tokens * hidden;
        Work { flops: (6 * tokens * top_k * hidden * self.width) as u64, bytes: bytes as u64 }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        Ok([self.choice().kernels(device)?, self.behind_choice(device)?].concat())
    }

    fn launched(&self, device: &Device) -> Result<Vec<String>> {
        Ok([self.choice().launched(device)?, self.behind_choice(device)?].concat())
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
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
    pub local_ids: Option<Vec<i32>>,
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
        let MoeLayerCase { gate, width, clamp, rule, order, .. } = self.case;
        let model = MoeLayerModel {
            gate: gate_model(&gate),
            gate_weight: &self.gate,
            options: GateOptions {
                bias: Some(&self.bias),
                mask: self.mask.as_ref().map(|mask| &mask[first..]),
                fixed_ids: None,
            },
            local_ids: self.local_ids.as_deref(),
            hidden: gate.hidden,
            intermediate: width,
            gate_up: self.gate_up.model(),
            down: self.down.model(),
            swiglu: swiglu_model(clamp, order, rule),
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
