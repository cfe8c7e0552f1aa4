//! Balancing 256 experts without a loss: a router that prefers some experts by nature, and a bias that learns against it.
//!
//! `cargo run --release --example balance` simulates 1000 steps of 4096 tokens, with 8 of 256 experts from 4 of 8 groups,
//! as in DeepSeek-V3. MaxVio is how far the busiest expert lies above the mean, in units of the mean.
//!
//! On the emulated Hopper four million tokens would take over an hour, so the references route and count, which give the
//! same bits; every 100 steps a part of the batch goes through the device's kernels and must give the same experts, counts
//! and biases. On a GPU the device does it all, and the references check those steps.

use std::error::Error;

use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateArgs, BiasUpdateSpec, ExpertLoad, ExpertLoadArgs, ExpertLoadSpec, Gate,
    GateSelectArgs, GateSpec, Routing,
};
use deepseek_kernels::{Device, DeviceKind, Matrix, MatrixMut};
use oracles::router::{GateModel, GateOptions, ScoreModel, bias_update, expert_load, gate_select, max_vio};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

const EXPERTS: usize = 256;
const TOPK: usize = 8;
const TOKENS: usize = 4096;
const STEPS: usize = 1000;
/// Steps whose counts are added up for the global MaxVio: one batch is as uneven as chance makes it.
const WINDOW: usize = 50;
const CHECK_EVERY: usize = 100;
/// Tokens that an emulated device checks.
const EMULATED_TOKENS: usize = 128;
const SPEED: f32 = 1e-3;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::open_gpu(0).or_else(|_| Device::emulated())?;
    println!(
        "{TOKENS} tokens a step, {TOPK} of {EXPERTS} experts, 4 of 8 groups, speed {SPEED}; {}\n",
        device.name()
    );
    let mut router = Router::new(1);
    let mut history = Vec::new();
    let mut window = Vec::new();
    println!("{:>5}  {:>12}  {:>13}  {:>10}", "step", "MaxVio batch", "MaxVio global", "max |bias|");
    for step in 0..STEPS {
        let logits = router.logits();
        let counts = router.step(&device, &logits, step.is_multiple_of(CHECK_EVERY))?;
        history.push(max_vio(&counts));
        window.push(counts);
        if window.len() > WINDOW {
            window.remove(0);
        }
        if [0, 10, 30].contains(&step) || (step + 1).is_multiple_of(CHECK_EVERY) {
            let bias = router.bias.iter().fold(0.0_f32, |largest, b| largest.max(b.abs()));
            println!("{step:>5}  {:>12.3}  {:>13.3}  {bias:>10.4}", history[step], global(&window));
        }
    }
    plot(&history);
    println!("device and references agreed in every checked step");

    let global = global(&window);
    assert!(history[0] >= 5.0, "an unbalanced router is uneven: {}", history[0]);
    assert!(global <= 0.05, "MaxVio over the last {WINDOW} steps: {global}");
    Ok(())
}

/// MaxVio of the sum of some steps.
fn global(window: &[Vec<u32>]) -> f64 {
    let sum = (0..EXPERTS).map(|e| window.iter().map(|counts| counts[e]).sum());
    max_vio(&sum.collect::<Vec<u32>>())
}

/// A router whose logits are noise around a preference for each expert.
struct Router {
    rng: Xoshiro256PlusPlus,
    preference: Vec<f32>,
    bias: Vec<f32>,
}

impl Router {
    fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let preference = (0..EXPERTS).map(|_| 0.5 * rng.sample::<f32, _>(StandardNormal)).collect();
        Self { rng, preference, bias: vec![0.0; EXPERTS] }
    }

    /// Of one batch, `[tokens, experts]`.
    fn logits(&mut self) -> Vec<f32> {
        let Self { rng, preference, .. } = self;
        (0..TOKENS * EXPERTS)
            .map(|i| rng.sample::<f32, _>(StandardNormal) + preference[i % EXPERTS])
            .collect()
    }

    /// Routes a batch and moves the bias; returns the counts.
    fn step(&mut self, device: &Device, logits: &[f32], check: bool) -> Result<Vec<u32>, Box<dyn Error>> {
        let gpu = device.kind() == DeviceKind::Cuda;
        let mut referenced = None;
        if !gpu || check {
            referenced = Some(by_reference(logits, &self.bias)?);
        }
        if gpu || check {
            let tokens = if gpu { TOKENS } else { EMULATED_TOKENS };
            let part = &logits[..tokens * EXPERTS];
            let got = on_device(device, part, &self.bias)?;
            if check {
                assert!(got == by_reference(part, &self.bias)?, "device and references differ");
            }
            if gpu {
                referenced = Some(got);
            }
        }
        let Outcome { counts, bias, .. } = referenced.ok_or("nobody routed")?;
        self.bias = bias;
        Ok(counts)
    }
}

/// What a step does with a batch.
#[derive(PartialEq)]
struct Outcome {
    ids: Vec<i32>,
    counts: Vec<u32>,
    bias: Vec<f32>,
}

fn by_reference(logits: &[f32], bias: &[f32]) -> Result<Outcome, Box<dyn Error>> {
    let model = GateModel {
        experts: EXPERTS,
        top_k: TOPK,
        groups: 8,
        kept_groups: 4,
        shared: 0,
        scoring: ScoreModel::Sigmoid,
        top_two_sum: true,
        normalize: true,
        route_scale: 2.5,
    };
    let ids = gate_select(&model, logits, GateOptions { bias: Some(bias), ..Default::default() })?.ids;
    let mut counts = vec![0; EXPERTS];
    expert_load(&ids, &mut counts);
    let mut bias = bias.to_vec();
    bias_update(&counts, &mut bias, SPEED)?;
    Ok(Outcome { ids, counts, bias })
}

fn on_device(device: &Device, logits: &[f32], bias: &[f32]) -> Result<Outcome, Box<dyn Error>> {
    let tokens = logits.len() / EXPERTS;
    let gate = Gate::plan(device, GateSpec::deepseek_v3(tokens))?;
    let load = ExpertLoad::plan(device, ExpertLoadSpec::new(tokens, TOPK, EXPERTS))?;
    let update = BiasUpdate::plan(device, BiasUpdateSpec::new(EXPERTS, SPEED))?;
    let logits = device.upload(logits)?;
    let mut bias = device.upload(bias)?;
    let mut ids = device.upload(&vec![0_i32; tokens * TOPK])?;
    let mut weights = device.upload(&vec![0.0_f32; tokens * TOPK])?;
    let mut counts = device.upload(&[0_u32; EXPERTS])?;
    let mut max_vio = device.upload(&[0.0_f32])?;

    let routing = Routing {
        bias: Some((&bias).into()),
        mask: None,
        fixed_ids: None,
        ids: MatrixMut::new(&mut ids, tokens, TOPK)?,
        weights: MatrixMut::new(&mut weights, tokens, TOPK)?,
        scores: None,
    };
    let stream = device.stream()?;
    gate.select(stream, GateSelectArgs { logits: Matrix::new(&logits, tokens, EXPERTS)?, routing })?;
    let ids_view = Matrix::new(&ids, tokens, TOPK)?;
    load.run(stream, ExpertLoadArgs { ids: ids_view.into(), counts: (&mut counts).into() })?;
    let args =
        BiasUpdateArgs { counts: (&counts).into(), bias: (&mut bias).into(), max_vio: (&mut max_vio).into() };
    update.run(stream, args)?;
    Ok(Outcome { ids: ids.to_vec()?, counts: counts.to_vec()?, bias: bias.to_vec()? })
}

/// MaxVio of each batch over the steps, in text.
fn plot(history: &[f64]) {
    const ROWS: usize = 12;
    const COLUMNS: usize = 80;
    let highest = history.iter().copied().fold(0.0, f64::max);
    let column = |c: usize| {
        let steps = &history[c * history.len() / COLUMNS..(c + 1) * history.len() / COLUMNS];
        steps.iter().sum::<f64>() / steps.len() as f64
    };
    println!("\nMaxVio of a batch, {} steps", history.len());
    for row in (0..ROWS).rev() {
        let level = highest * (row as f64 + 0.5) / ROWS as f64;
        let line: String = (0..COLUMNS).map(|c| if column(c) >= level { '#' } else { ' ' }).collect();
        println!("{:>6.2} |{}", highest * (row + 1) as f64 / ROWS as f64, line.trim_end());
    }
    println!("  0.00 +{}\n", "-".repeat(COLUMNS));
}
