//! The check of a whole layer of routed experts.

use crate::router::gate_model;
use deepseek_kernels::moe::{ExpertWeights, MoeLayer, MoeLayerArgs, MoeLayerSpec};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::mla::calc_diff;
use oracles::moe::{ExpertMatrices, MoeLayerModel, MoeLayerOutput, moe_layer};
use oracles::quant::{QuantizeScale, quantize_128x128};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::judge::{Cell, written};
use super::machine::{text, timed};
use super::report::{Checked, Row};
use super::runner::{Job, Outcome};
use crate::judge::Check;

/// A layer with DeepSeek-V3's hidden size and router, of fewer and narrower experts.
#[derive(Clone, Copy)]
pub struct MoeJob {
    pub tokens: usize,
    pub experts: usize,
    pub top_k: usize,
    pub groups: usize,
    pub kept_groups: usize,
    pub width: usize,
    pub seed: u64,
}

const HIDDEN: usize = 7168;
const FORMAT: (ScaleFormat, QuantizeScale) = (ScaleFormat::PowerOfTwo, QuantizeScale::PowerOfTwo);

/// The experts' matrices of one projection, below each other.
struct Projection {
    weight: Vec<F8E4M3>,
    scales: Vec<f32>,
    rows: usize,
    k: usize,
}

struct Layer {
    gate: Vec<f32>,
    bias: Vec<f32>,
    gate_up: Projection,
    down: Projection,
    x: Vec<bf16>,
    residual: Vec<bf16>,
}

fn normal(rng: &mut Xoshiro256PlusPlus, len: usize, size: f32) -> Vec<bf16> {
    (0..len).map(|_| bf16::from_f32(size * rng.random_range(-1.0..1.0))).collect()
}

impl Projection {
    fn new(rng: &mut Xoshiro256PlusPlus, experts: usize, n: usize, k: usize) -> Result<Self, String> {
        let (rows, size) = (experts * n, (3.0 / k as f32).sqrt());
        // n is a multiple of 128: no block of scales spans two experts.
        let quantised =
            quantize_128x128(&normal(rng, rows * k, size), rows, k, k, QuantizeScale::Fp32).map_err(text)?;
        Ok(Self { weight: quantised.q, scales: quantised.sf, rows, k })
    }

    fn model(&self) -> ExpertMatrices<'_> {
        ExpertMatrices { weight: &self.weight, scales: &self.scales }
    }

    fn upload(&self, device: &Device) -> Result<(Buffer<F8E4M3>, Buffer<f32>), String> {
        Ok((device.upload(&self.weight).map_err(text)?, device.upload(&self.scales).map_err(text)?))
    }

    fn view<'a>(
        &self,
        (weight, scales): &'a (Buffer<F8E4M3>, Buffer<f32>),
    ) -> Result<ExpertWeights<'a>, deepseek_kernels::Error> {
        Ok(ExpertWeights {
            weight: Matrix::new(weight, self.rows, self.k)?,
            scales: Matrix::new(scales, self.rows / 128, self.k / 128)?,
        })
    }
}

impl Job for MoeJob {
    fn label(&self) -> String {
        format!("MoE layer {}", self.shape())
    }

    fn cost(&self) -> u128 {
        (64 * self.experts * 3 * self.width * HIDDEN) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let (seconds, checks) = self.check(device).unwrap_or_else(|e| (None, vec![Check::failed("run", e)]));
        Outcome::Rows(vec![Row {
            operation: format!("MoE layer, {} of {} experts", self.top_k, self.experts),
            shape: self.shape(),
            instance: "10 launches".to_owned(),
            data: "uniform".to_owned(),
            checks,
            seconds,
            matrix: None,
        }])
    }
}

impl MoeJob {
    fn shape(&self) -> String {
        format!("{} x {} x {HIDDEN}", self.tokens, self.width)
    }

    fn layer(&self) -> Result<Layer, String> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let rng = &mut rng;
        Ok(Layer {
            gate: (0..self.experts * HIDDEN).map(|_| rng.random_range(-0.02..0.02)).collect(),
            bias: (0..self.experts).map(|_| rng.random_range(-0.1..0.1)).collect(),
            gate_up: Projection::new(rng, self.experts, 2 * self.width, HIDDEN)?,
            down: Projection::new(rng, self.experts, HIDDEN, self.width)?,
            x: normal(rng, self.tokens * HIDDEN, 1.7),
            residual: normal(rng, self.tokens * HIDDEN, 1.7),
        })
    }

    fn check(&self, device: &Device) -> Checked {
        let layer = self.layer()?;
        let (out, seconds) = self.execute(device, &layer)?;
        let MoeLayerOutput { bits, exact } = self.expected(&layer)?;
        let wrong = out.iter().zip(&bits).position(|(got, expected)| got.to_bits() != expected.to_bits());
        let failure = wrong
            .map(|i| format!("out[{}, {}]: expected {}, got {}", i / HIDDEN, i % HIDDEN, bits[i], out[i]));
        // The bar for a layer against f64; the bits above are the stricter judge.
        const BAR: f64 = 1e-5;
        let values: Vec<f32> = out.iter().map(|x| x.widen()).collect();
        let difference = calc_diff(&exact, &values);
        let far =
            (difference > BAR).then(|| format!("calc_diff {difference:e} against f64, at most {BAR:e}"));
        let checks = vec![
            written(&out, HIDDEN),
            Check::equal("bits of the steps", out.len(), failure),
            Check::equal("f64", out.len(), far),
        ];
        Ok((seconds, checks))
    }

    fn spec(&self) -> MoeLayerSpec {
        let Self { tokens, experts, top_k, groups, kept_groups, .. } = *self;
        MoeLayerSpec {
            gate: GateSpec { experts, top_k, groups, kept_groups, ..GateSpec::deepseek_v3(tokens) },
            intermediate: self.width,
            clamp: None,
            format: FORMAT.0,
        }
    }

    fn execute(&self, device: &Device, layer: &Layer) -> Result<(Vec<bf16>, Option<f64>), String> {
        let mut plan = MoeLayer::plan(device, self.spec()).map_err(text)?;
        let (x, residual) =
            (device.upload(&layer.x).map_err(text)?, device.upload(&layer.residual).map_err(text)?);
        let (gate, bias) =
            (device.upload(&layer.gate).map_err(text)?, device.upload(&layer.bias).map_err(text)?);
        let (gate_up, down) = (layer.gate_up.upload(device)?, layer.down.upload(device)?);
        let mut out = device.upload(&vec![bf16::SENTINEL; self.tokens * HIDDEN]).map_err(text)?;
        let seconds = timed(device, |stream| {
            let args = MoeLayerArgs {
                hidden: Matrix::new(&x, self.tokens, HIDDEN)?,
                gate: Matrix::new(&gate, self.experts, HIDDEN)?,
                bias: Some(bias.slice(0)),
                gate_up: layer.gate_up.view(&gate_up)?,
                down: layer.down.view(&down)?,
                shared: None,
                residual: Some(Matrix::new(&residual, self.tokens, HIDDEN)?),
                out: MatrixMut::new(&mut out, self.tokens, HIDDEN)?,
            };
            plan.run(stream, args)
        })?;
        Ok((out.to_vec().map_err(text)?, seconds))
    }

    fn expected(&self, layer: &Layer) -> Result<MoeLayerOutput, String> {
        let model = MoeLayerModel {
            gate: gate_model(&self.spec().gate),
            gate_weight: &layer.gate,
            bias: Some(&layer.bias),
            hidden: HIDDEN,
            intermediate: self.width,
            gate_up: layer.gate_up.model(),
            down: layer.down.model(),
            clamp: None,
            scale: FORMAT.1,
        };
        moe_layer(&model, &layer.x, None, Some(&layer.residual)).map_err(text)
    }
}
