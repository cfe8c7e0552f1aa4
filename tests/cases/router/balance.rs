//! Counts and biases bit for bit, the loss within the bound of FP32, and whether balancing balances.

use std::sync::Arc;

use check::case::{Problem, attempt, memory_of, pass};
use check::devices::devices;
use check::memory::Output;
use check::moe::{ROUTINGS, Routing};
use check::router::bias_update::{BiasUpdateCase, BiasUpdateProblem};
use check::router::expert_load::{ExpertLoadCase, ExpertLoadProblem};
use check::router::sequence_balance_loss::{SequenceBalanceLossCase, SequenceBalanceLossProblem};
use deepseek_kernels::Device;
use deepseek_kernels::router::SequenceBalanceLossSpec;
use oracles::router::{GateModel, GateOptions, ScoreModel, gate_select, max_vio};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

fn outputs(problem: impl Problem + 'static, device: &Device) -> Vec<Output> {
    let ran = attempt(Arc::new(problem), device, memory_of("balance"));
    ran.unwrap_or_else(|error| panic!("{error:#}")).outputs
}

/// Counts on top of none.
fn count(device: &Device, ids: Vec<i32>, routes: usize, experts: usize) -> Vec<u32> {
    let case = ExpertLoadCase::new((ids.len() / routes, routes), experts);
    outputs(ExpertLoadProblem { case, ids, counts: vec![0; experts] }, device)[0].values()
}

#[test]
fn loads_are_counted_exactly() {
    for device in devices() {
        for ((tokens, routes), experts) in
            [((1, 1), 1), ((100, 8), 256), ((1000, 6), 160), ((33, 3), 5), ((0, 8), 64), ((70, 32), 512), ((70, 16), 896)]
        {
            for routing in [Routing::Gaps].into_iter().chain(ROUTINGS) {
                pass(&ExpertLoadCase { routing, ..ExpertLoadCase::new((tokens, routes), experts) }, &device);
            }
        }
    }
}

/// The judge knows that it is told of them.
#[test]
fn ids_of_no_expert_are_skipped() {
    for device in devices() {
        for bad in [7, -2, i32::MIN, i32::MAX] {
            assert_eq!(count(&device, vec![0, 6, bad, -1, 6, 3], 3, 7), [1, 0, 0, 1, 0, 0, 2], "{bad}");
        }
    }
}

/// The bias that these counts leave, and MaxVio.
fn update(device: &Device, counts: &[u32], bias: &[f32], speed: f32) -> (Vec<f32>, f32) {
    let case = BiasUpdateCase { speed, ..BiasUpdateCase::new(counts.len()) };
    let problem = BiasUpdateProblem { case, counts: counts.to_vec(), bias: bias.to_vec() };
    let outputs = outputs(problem, device);
    (outputs[0].values(), outputs[1].values()[0])
}

#[test]
fn biases_move_by_exactly_the_speed() {
    for device in devices() {
        for experts in [0, 1, 2, 3, 5, 64, 256, 257, 512, 513, 896, 1024] {
            let case = BiasUpdateCase::new(experts);
            pass(&case, &device);
            let bias = case.problem().bias;
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(experts as u64);
            let counts: Vec<u32> = (0..experts).map(|_| rng.random_range(0..40)).collect();
            update(&device, &counts, &bias, 1e-3);
            update(&device, &vec![17; experts], &bias, 1e-2);
            update(&device, &vec![0; experts], &bias, 1e-2);
        }
    }
}

/// In FP32 these loads would equal the mean, and in 32 bits their sum and their products overflow.
#[test]
fn signs_are_exact_for_loads_of_any_size() {
    for device in devices() {
        pass(&BiasUpdateCase { least: u32::MAX - 100, ..BiasUpdateCase::new(258) }, &device);
        let bias = BiasUpdateCase::new(512).problem().bias;
        let mut counts = vec![u32::MAX - 1; 512];
        counts[3] -= 1;
        counts[200] += 1;
        update(&device, &counts, &bias, 0.5);
        counts[200] -= 1;
        update(&device, &counts, &bias, 0.5);
        let moved = update(&device, &[1 << 31, 1 << 31, 1 << 31], &[1.0, 2.0, 3.0], 0.5);
        assert_eq!(moved, (vec![1.0, 2.0, 3.0], 0.0));
    }
}

fn losses(device: &Device, spec: SequenceBalanceLossSpec, scores: Vec<f32>) -> Vec<f32> {
    let case = SequenceBalanceLossCase { spec, ..SequenceBalanceLossCase::new((0, 0), (0, 0)) };
    outputs(SequenceBalanceLossProblem { case, scores }, device)[0].values()
}

#[test]
fn the_loss_of_a_sequence() {
    for device in devices() {
        for ((sequences, length), (experts, top_k)) in [
            ((1, 1), (1, 1)),
            ((3, 17), (64, 6)),
            ((2, 40), (256, 8)),
            ((4, 9), (5, 2)),
            ((1, 33), (512, 32)),
            ((1, 20), (513, 6)),
            ((2, 19), (896, 16)),
            ((1, 9), (1024, 32)),
            ((2, 100), (160, 6)),
        ] {
            let case = SequenceBalanceLossCase::new((sequences, length), (experts, top_k));
            let all: Vec<f32> = pass(&case, &device)[0].values();
            let first = case.problem().scores[..length * experts].to_vec();
            let mut one = case.spec;
            one.sequences = 1;
            let alone = losses(&device, one, first);
            assert_eq!(alone[0].to_bits(), all[0].to_bits(), "a loss depends on its own sequence");
        }
    }
}

/// Every expert chosen equally often, with equal scores: exactly alpha. One expert for all: more.
#[test]
fn perfect_balance_costs_alpha() {
    let (experts, top_k, length) = (64, 8, 64);
    let spec = |sequences, length| SequenceBalanceLossSpec::new(sequences, length, experts, top_k, 1.0);
    let turning = |t: usize, e: usize| if (e + experts - t) % experts < top_k { 0.5 } else { 0.25 };
    let fixed = |_: usize, e: usize| if e < top_k { 0.5 } else { 0.25 };
    for device in devices() {
        let scores = |f: &dyn Fn(usize, usize) -> f32| {
            (0..length * experts).map(|i| f(i / experts, i % experts)).collect::<Vec<_>>()
        };
        let balanced = losses(&device, spec(1, length), scores(&turning))[0];
        assert!((balanced - 1.0).abs() < 1e-5, "{balanced}");
        // f = 8 for eight experts, each with a share of 0.5 / (8 * 0.5 + 56 * 0.25).
        let uneven = losses(&device, spec(1, length), scores(&fixed))[0];
        assert!((uneven - 64.0 * 0.5 / 18.0).abs() < 1e-4, "{uneven}");
        assert_eq!(losses(&device, spec(1, 0), vec![]), [0.0]);
        assert_eq!(losses(&device, spec(0, length), vec![]), [0.0; 0]);
        assert!(losses(&device, spec(1, 1), vec![f32::NAN; 64])[0].is_nan());
    }
}

/// A router with skewed experts: the update evens out what no update leaves uneven.
#[test]
fn the_update_balances_a_skewed_router() {
    let (experts, tokens, steps) = (16, 256, 400);
    let model = GateModel {
        experts,
        top_k: 2,
        groups: 4,
        kept_groups: 2,
        shared: 0,
        scoring: ScoreModel::Sigmoid,
        top_two_sum: true,
        normalize: true,
        route_scale: 1.0,
    };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let skew: Vec<f32> = (0..experts).map(|_| 0.5 * rng.sample::<f32, _>(StandardNormal)).collect();
    for device in devices() {
        let mut bias = vec![0.0; experts];
        let mut last = vec![0; experts];
        for step in 0..steps {
            let logits: Vec<f32> = (0..tokens * experts)
                .map(|i| rng.sample::<f32, _>(StandardNormal) + skew[i % experts])
                .collect();
            let options = GateOptions { bias: Some(&bias), ..Default::default() };
            let ids = gate_select(&model, &logits, options).expect("reference").ids;
            let counts = count(&device, ids, 2, experts);
            let (moved, vio) = update(&device, &counts, &bias, 1e-2);
            assert!(step > 0 || vio > 1.0, "the skew shows: {vio}");
            bias = moved;
            if step >= steps - 50 {
                last.iter_mut().zip(counts).for_each(|(sum, c)| *sum += c);
            }
        }
        assert!(max_vio(&last) <= 0.1, "MaxVio of the last 50 steps: {}", max_vio(&last));
    }
}
