//! A whole layer of routed experts: gate, map, gather, two grouped GEMMs, SwiGLU, combine.

use std::sync::Arc;

use anyhow::Result;
use check::router::gate_model;
use deepseek_kernels::moe::{ExpertWeights, MoeLayer, MoeLayerArgs, MoeLayerSpec};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::GemmClass;
use oracles::mla::calc_diff;
use oracles::moe::{ExpertMatrices, MoeLayerModel, moe_layer};
use oracles::quant::QuantizeScale;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{SEED, repeated};
use crate::case::{Case, Judgement, Output, Prepared, Work, unwritten};

/// A layer whose experts all have the same weights, each its own memory.
#[derive(Debug, Clone, Copy)]
pub struct MoeCase {
    /// The router.
    pub gate: GateSpec,
    /// Width of an expert.
    pub width: usize,
}

/// Rows of a projection that differ: whole blocks of scales.
const DRAWN: usize = 256;
/// The bar for a token against f64: between rounding every step to its format, about 1e-6, and one wrong expert.
const CALC_DIFF: f64 = 1e-5;
/// Tokens that are judged: the reference takes seconds for each at full size. No token depends on another.
const JUDGED: usize = 1;

impl MoeCase {
    /// DeepSeek-V3's layer on this many tokens.
    pub fn deepseek_v3(tokens: usize) -> Self {
        Self { gate: GateSpec::deepseek_v3(tokens), width: 2048 }
    }

    fn spec(&self) -> MoeLayerSpec {
        let Self { gate, width: intermediate } = *self;
        MoeLayerSpec { gate, intermediate, clamp: None, format: ScaleFormat::PowerOfTwo }
    }
}

impl Case for MoeCase {
    fn operation(&self) -> &'static str {
        "moe_layer"
    }

    fn shape(&self) -> String {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        format!("{tokens}x{hidden}x{}_{top_k}of{experts}", self.width)
    }

    fn work(&self) -> Work {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.gate;
        // Every expert's weights, unless there are fewer routes than experts.
        let weights = experts.min(tokens * top_k) * 3 * hidden * self.width;
        let bytes = weights + 4 * experts * hidden + 4 * tokens * hidden;
        Work { flops: (6 * tokens * top_k * hidden * self.width) as u64, bytes: bytes as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let inputs = Arc::new(Inputs::new(self)?);
        (0..sets).map(|_| Ok(Box::new(Problem::new(device, *self, inputs.clone())?) as _)).collect()
    }
}

/// The experts' matrices of one projection, below each other.
struct Projection {
    weight: Vec<F8E4M3>,
    scales: Vec<f32>,
    rows: usize,
    k: usize,
}

impl Projection {
    fn new(experts: usize, n: usize, k: usize) -> Result<Self> {
        let drawn = GemmClass::Normal.generate((0, n.min(DRAWN), k), SEED)?;
        let rows = experts * n;
        // Sums of k products have the size of one.
        let size = (k as f32).powf(-0.5);
        let scales: Vec<f32> = drawn.sfb.iter().map(|scale| scale * size).collect();
        Ok(Self {
            weight: repeated(&drawn.b, k, rows),
            scales: repeated(&scales, k / 128, rows / 128),
            rows,
            k,
        })
    }

    fn model(&self) -> ExpertMatrices<'_> {
        ExpertMatrices { weight: &self.weight, scales: &self.scales }
    }

    fn upload(&self, device: &Device) -> Result<(Buffer<F8E4M3>, Buffer<f32>)> {
        Ok((device.upload(&self.weight)?, device.upload(&self.scales)?))
    }

    fn view<'a>(
        &self,
        (weight, scales): &'a (Buffer<F8E4M3>, Buffer<f32>),
    ) -> deepseek_kernels::Result<ExpertWeights<'a>> {
        Ok(ExpertWeights {
            weight: Matrix::new(weight, self.rows, self.k)?,
            scales: Matrix::new(scales, self.rows / 128, self.k / 128)?,
        })
    }
}

struct Inputs {
    x: Vec<bf16>,
    gate: Vec<f32>,
    bias: Vec<f32>,
    gate_up: Projection,
    down: Projection,
}

impl Inputs {
    fn new(case: &MoeCase) -> Result<Self> {
        let GateSpec { tokens, hidden, experts, .. } = case.gate;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(SEED);
        Ok(Self {
            x: (0..tokens * hidden).map(|_| bf16::from_f32(rng.random_range(-1.7..1.7))).collect(),
            gate: (0..experts * hidden).map(|_| rng.random_range(-0.02..0.02)).collect(),
            bias: (0..experts).map(|_| rng.random_range(-0.1..0.1)).collect(),
            gate_up: Projection::new(experts, 2 * case.width, hidden)?,
            down: Projection::new(experts, hidden, case.width)?,
        })
    }
}

struct Problem {
    case: MoeCase,
    inputs: Arc<Inputs>,
    layer: MoeLayer,
    x: Buffer<bf16>,
    gate: Buffer<f32>,
    bias: Buffer<f32>,
    gate_up: (Buffer<F8E4M3>, Buffer<f32>),
    down: (Buffer<F8E4M3>, Buffer<f32>),
    out: Buffer<bf16>,
}

impl Problem {
    fn new(device: &Device, case: MoeCase, inputs: Arc<Inputs>) -> Result<Self> {
        Ok(Self {
            layer: MoeLayer::plan(device, case.spec())?,
            x: device.upload(&inputs.x)?,
            gate: device.upload(&inputs.gate)?,
            bias: device.upload(&inputs.bias)?,
            gate_up: inputs.gate_up.upload(device)?,
            down: inputs.down.upload(device)?,
            out: unwritten(device, case.gate.tokens * case.gate.hidden)?,
            case,
            inputs,
        })
    }
}

impl Prepared for Problem {
    fn instance(&self) -> String {
        "10_launches".to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let GateSpec { tokens, hidden, experts, .. } = self.case.gate;
        let args = MoeLayerArgs {
            hidden: Matrix::new(&self.x, tokens, hidden)?,
            gate: Matrix::<f32>::new(&self.gate, experts, hidden)?,
            bias: Some(self.bias.slice(0)),
            gate_up: self.inputs.gate_up.view(&self.gate_up)?,
            down: self.inputs.down.view(&self.down)?,
            shared: None,
            residual: None,
            out: MatrixMut::new(&mut self.out, tokens, hidden)?,
        };
        self.layer.run(stream, args)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.out)?])
    }

    fn judge(&self) -> Result<Judgement> {
        let MoeCase { gate, width } = self.case;
        let Inputs { x, gate: gate_weight, bias, gate_up, down } = &*self.inputs;
        let tokens = gate.tokens.min(JUDGED);
        let model = MoeLayerModel {
            gate: gate_model(&gate),
            gate_weight,
            bias: Some(bias),
            hidden: gate.hidden,
            intermediate: width,
            gate_up: gate_up.model(),
            down: down.model(),
            clamp: None,
            scale: QuantizeScale::PowerOfTwo,
        };
        let expected = moe_layer(&model, &x[..tokens * gate.hidden], None, None)?.exact;
        let got: Vec<f32> = self.out.to_vec()?[..expected.len()].iter().map(|x| x.to_f32()).collect();
        let difference = calc_diff(&expected, &got);
        // A NaN is not near.
        let near = difference <= CALC_DIFF;
        let failure = format!("calc_diff {difference:e} against f64, at most {CALC_DIFF:e}");
        Ok(Judgement {
            by: "bound",
            checked: got.len(),
            worst: difference / CALC_DIFF,
            failure: (!near).then_some(failure),
        })
    }
}
