//! A layer of routed experts, to the bit: what the references of its steps give one after another.

use check::devices::{devices, emulated, schedules};
use check::goldens::integers;
use check::router::gate_model;
use deepseek_kernels::moe::{ExpertWeights, MoeLayer, MoeLayerArgs, MoeLayerSpec};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::mla::calc_diff;
use oracles::moe::{ExpertMatrices, MoeLayerModel, MoeLayerOutput, moe_layer};
use oracles::quant::{QuantizeScale, Quantized, quantize_128x128};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const HIDDEN: usize = 256;
const WIDTH: usize = 128;
const EXPERTS: usize = 32;

fn spec(tokens: usize) -> MoeLayerSpec {
    MoeLayerSpec {
        gate: GateSpec { hidden: HIDDEN, experts: EXPERTS, ..GateSpec::deepseek_v3(tokens) },
        intermediate: WIDTH,
        clamp: None,
        format: ScaleFormat::PowerOfTwo,
    }
}

/// The experts' matrices of one projection.
struct Projection {
    weight: Vec<F8E4M3>,
    scales: Vec<f32>,
    n: usize,
    k: usize,
}

struct Weights {
    gate: Vec<f32>,
    bias: Vec<f32>,
    gate_up: Projection,
    down: Projection,
}

fn values(rng: &mut Xoshiro256PlusPlus, len: usize, size: f32) -> Vec<bf16> {
    (0..len).map(|_| bf16::from_f32(size * rng.random_range(-1.0..1.0))).collect()
}

/// A projection on a device.
struct Uploaded {
    weight: Buffer<F8E4M3>,
    scales: Buffer<f32>,
    n: usize,
    k: usize,
}

impl Uploaded {
    fn view(&self) -> ExpertWeights<'_> {
        let Self { n, k, .. } = *self;
        ExpertWeights {
            weight: Matrix::new(&self.weight, EXPERTS * n, k).expect("weight"),
            scales: Matrix::new(&self.scales, EXPERTS * n.div_ceil(128), k / 128).expect("scales"),
        }
    }
}

impl Projection {
    fn upload(&self, device: &Device) -> Uploaded {
        let (weight, scales) = (device.upload(&self.weight).expect("weight"), device.upload(&self.scales));
        Uploaded { weight, scales: scales.expect("scales"), n: self.n, k: self.k }
    }

    fn new(rng: &mut Xoshiro256PlusPlus, n: usize, k: usize) -> Self {
        let one =
            |_| quantize_128x128(&values(rng, n * k, 0.1), n, k, k, QuantizeScale::Fp32).expect("reference");
        let experts: Vec<Quantized> = (0..EXPERTS).map(one).collect();
        let weight = experts.iter().flat_map(|e| e.q.clone()).collect();
        Self { weight, scales: experts.iter().flat_map(|e| e.sf.clone()).collect(), n, k }
    }

    fn model(&self) -> ExpertMatrices<'_> {
        ExpertMatrices { weight: &self.weight, scales: &self.scales }
    }
}

impl Weights {
    fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            gate: (0..EXPERTS * HIDDEN).map(|_| rng.random_range(-0.3..0.3)).collect(),
            bias: (0..EXPERTS).map(|_| rng.random_range(-1.5..-0.5)).collect(),
            gate_up: Projection::new(&mut rng, 2 * WIDTH, HIDDEN),
            down: Projection::new(&mut rng, HIDDEN, WIDTH),
        }
    }

    fn expected(&self, tokens: &Tokens) -> MoeLayerOutput {
        let model = MoeLayerModel {
            gate: gate_model(&spec(tokens.count).gate),
            gate_weight: &self.gate,
            bias: Some(&self.bias),
            hidden: HIDDEN,
            intermediate: WIDTH,
            gate_up: self.gate_up.model(),
            down: self.down.model(),
            clamp: None,
            scale: QuantizeScale::PowerOfTwo,
        };
        moe_layer(&model, &tokens.x, Some(&tokens.shared), Some(&tokens.residual)).expect("reference")
    }
}

/// Inputs that differ from token to token.
struct Tokens {
    x: Vec<bf16>,
    shared: Vec<bf16>,
    residual: Vec<bf16>,
    count: usize,
}

impl Tokens {
    fn new(count: usize, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut draw = || values(&mut rng, count * HIDDEN, 2.0);
        Self { x: draw(), shared: draw(), residual: draw(), count }
    }

    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        let cut = |data: &[bf16]| data[rows.start * HIDDEN..rows.end * HIDDEN].to_vec();
        Self { x: cut(&self.x), shared: cut(&self.shared), residual: cut(&self.residual), count: rows.len() }
    }
}

fn run(device: &Device, layer: &mut MoeLayer, weights: &Weights, tokens: &Tokens) -> Vec<bf16> {
    let upload = |data: &[bf16]| device.upload(data).expect("upload");
    let (x, shared, residual) = (upload(&tokens.x), upload(&tokens.shared), upload(&tokens.residual));
    let hidden = weights.down.n;
    let mut out = upload(&vec![bf16::NAN; tokens.count * hidden]);
    let gate = device.upload(&weights.gate).expect("gate");
    let bias = device.upload(&weights.bias).expect("bias");
    let (gate_up, down) = (weights.gate_up.upload(device), weights.down.upload(device));
    let matrix = |data| Matrix::new(data, tokens.count, hidden).expect("view");
    let args = MoeLayerArgs {
        hidden: matrix(&x),
        gate: Matrix::new(&gate, EXPERTS, hidden).expect("gate"),
        bias: Some(bias.slice(0)),
        gate_up: gate_up.view(),
        down: down.view(),
        shared: Some(matrix(&shared)),
        residual: Some(matrix(&residual)),
        out: MatrixMut::new(&mut out, tokens.count, hidden).expect("out"),
    };
    layer.run(device.stream().expect("stream"), args).unwrap_or_else(|e| panic!("{e}"));
    out.to_vec().expect("download")
}

fn bits(data: &[bf16]) -> Vec<u16> {
    data.iter().map(|x| x.to_bits()).collect()
}

fn check(device: &Device, layer: &mut MoeLayer, weights: &Weights, tokens: &Tokens) {
    let got = run(device, layer, weights, tokens);
    let MoeLayerOutput { bits: expected, exact } = weights.expected(tokens);
    let wrong = got.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(i) = wrong {
        let (token, column) = (i / HIDDEN, i % HIDDEN);
        panic!("{}: out[{token}, {column}]: expected {}, got {}", device.name(), expected[i], got[i]);
    }
    let got: Vec<f32> = got.iter().map(|x| x.to_f32()).collect();
    let difference = calc_diff(&exact, &got);
    assert!(difference <= 1e-5, "{} tokens: calc_diff {difference:e}", tokens.count);
}

#[test]
fn one_token_and_many() {
    let weights = Weights::new(1);
    for device in devices() {
        for count in [0, 1, 9, 70] {
            let mut layer = MoeLayer::plan(&device, spec(count)).expect("plan");
            // Twice with other tokens: nothing of the first run is left in the second.
            for seed in [2, 3] {
                check(&device, &mut layer, &weights, &Tokens::new(count, seed));
            }
        }
    }
}

#[test]
fn all_tokens_to_the_same_experts() {
    let mut weights = Weights::new(4);
    // Only the last groups can win, and of them the same experts for every token.
    weights.bias = (0..EXPERTS).map(|e| if e >= EXPERTS - 16 && e % 2 == 0 { 5.0 } else { -5.0 }).collect();
    let tokens = Tokens::new(40, 5);
    for device in devices() {
        let mut layer = MoeLayer::plan(&device, spec(40)).expect("plan");
        check(&device, &mut layer, &weights, &tokens);
    }
}

/// A token's output depends on that token alone.
#[test]
fn batches_can_be_split() {
    let weights = Weights::new(6);
    let tokens = Tokens::new(33, 7);
    for device in devices() {
        let run = |part: Tokens| {
            let mut layer = MoeLayer::plan(&device, spec(part.count)).expect("plan");
            bits(&run(&device, &mut layer, &weights, &part))
        };
        let whole = run(tokens.part(0..33));
        let parts = [run(tokens.part(0..1)), run(tokens.part(1..20)), run(tokens.part(20..33))].concat();
        assert!(whole == parts, "a split batch gives other bits");
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let (weights, tokens) = (Weights::new(8), Tokens::new(12, 9));
    let run = |device: &Device| {
        let mut layer = MoeLayer::plan(device, spec(12)).expect("plan");
        bits(&run(device, &mut layer, &weights, &tokens))
    };
    for machines in schedules(4) {
        let first = run(&machines[0]);
        for (number, device) in machines.iter().enumerate().skip(1) {
            assert!(run(device) == first, "{} number {number}", device.name());
        }
    }
}

#[test]
fn what_cannot_be_planned() {
    let device = emulated(0);
    let error = |spec| MoeLayer::plan(&device, spec).err().expect("must be rejected").to_string();
    let odd = MoeLayerSpec { intermediate: 100, ..spec(1) };
    assert_eq!(error(odd), "intermediate must be a multiple of 128, got 100");
    let shared = MoeLayerSpec { gate: GateSpec { shared: 1, ..spec(1).gate }, ..spec(1) };
    assert_eq!(error(shared), "shared routes of a layer's gate must be 0, got 1");
}

/// In [-8, 8): exact in E4M3.
fn small(count: usize, seed: u32) -> impl Iterator<Item = f32> {
    integers(count, seed).map(|x| (x / 16.0).floor())
}

/// What Hugging Face's block computes in FP32 from the same weights. Only the activations between the two products are
/// rounded here and not there: each by at most 2^-4 of itself, independently, so the relative RMS of a sum of them is at
/// most that, and `calc_diff`, which is half its square, at most 2^-9.
#[test]
fn hugging_face_computes_the_same() {
    const TOKENS: usize = 40;
    const SIZE: usize = 128;
    const EXACT: f32 = 1.0 / 64.0;
    let projection = |n: usize, k: usize, seed| Projection {
        weight: small(EXPERTS * n * k, seed).map(F8E4M3::from_f32).collect(),
        scales: vec![EXACT; EXPERTS * n / 128 * (k / 128)],
        n,
        k,
    };
    let weights = Weights {
        gate: integers(EXPERTS * SIZE, 12).map(|x| x / 4096.0).collect(),
        bias: integers(EXPERTS, 13).map(|x| x / 1024.0 - 1.5).collect(),
        gate_up: projection(2 * SIZE, SIZE, 14),
        down: projection(SIZE, SIZE, 15),
    };
    let zeros = vec![bf16::ZERO; TOKENS * SIZE];
    let x = small(TOKENS * SIZE, 11).map(|x| bf16::from_f32(x / 4.0)).collect();
    let tokens = Tokens { x, shared: zeros.clone(), residual: zeros, count: TOKENS };
    let spec = MoeLayerSpec {
        gate: GateSpec { hidden: SIZE, experts: EXPERTS, ..GateSpec::deepseek_v3(TOKENS) },
        intermediate: SIZE,
        clamp: None,
        format: ScaleFormat::PowerOfTwo,
    };
    for device in devices() {
        let mut layer = MoeLayer::plan(&device, spec).expect("plan");
        let got = run(&device, &mut layer, &weights, &tokens);
        let mut known = 0;
        for line in include_str!("../../goldens/moe_layer.txt").lines() {
            let (token, values) = line.split_once(' ').expect("a token and its output");
            let token: usize = token.parse().expect("a token");
            let expected: Vec<f64> =
                values.split(' ').map(|value| value.parse().expect("a number")).collect();
            let got: Vec<f32> = got[token * SIZE..][..SIZE].iter().map(|x| x.to_f32()).collect();
            let difference = calc_diff(&expected, &got);
            assert!(difference <= 1.0 / 512.0, "token {token}: calc_diff {difference:e}");
            known += 1;
        }
        assert_eq!(known, TOKENS, "the file is whole");
    }
}
