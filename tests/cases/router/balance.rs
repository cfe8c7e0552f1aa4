//! Counts and biases bit for bit, the loss within the bound of FP32, and whether balancing balances.

use check::devices::devices;
use check::router::balance::{CHAINS, count, losses, update};
use deepseek_kernels::router::SequenceBalanceLossSpec;
use deepseek_kernels::{Device, Error};
use oracles::router::{
    GateModel, GateOptions, bias_update, expert_load, gate_select, max_vio, sequence_balance_loss,
};
use oracles::sigmoid_f32;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

#[test]
fn loads_are_counted_exactly() {
    for device in devices() {
        for (tokens, routes, experts) in
            [(1, 1, 1), (100, 8, 256), (1000, 6, 160), (33, 3, 5), (0, 8, 64), (70, 32, 512)]
        {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(tokens as u64);
            let ids: Vec<i32> = (0..tokens * routes).map(|_| rng.random_range(-1..experts)).collect();
            let mut expected: Vec<u32> = (0..experts as u32).map(|e| 1000 * e).collect();
            let got = count(&device, &ids, routes, &expected);
            assert!(!expert_load(&ids, &mut expected));
            assert_eq!(got, expected, "{tokens} tokens, {routes} routes, {experts} experts");
            assert_eq!(device.poll_error(), Ok(()));
        }
    }
}

#[test]
fn ids_of_no_expert_are_skipped_and_told_of() {
    for device in devices() {
        for bad in [7, -2, i32::MIN, i32::MAX] {
            let got = count(&device, &[0, 6, bad, -1, 6, 3], 3, &[0; 7]);
            assert_eq!(got, [1, 0, 0, 1, 0, 0, 2], "{bad}");
            let fault = device.poll_error();
            assert!(matches!(fault, Err(Error::Data(faults)) if faults.expert_id()), "{bad}: {fault:?}");
        }
    }
}

fn check_update(device: &Device, counts: &[u32], speed: f32) {
    let bias: Vec<f32> = (0..counts.len()).map(|e| (e as f32 * 0.7).sin() * 0.1 - 0.03).collect();
    let mut expected = bias.clone();
    bias_update(counts, &mut expected, speed).expect("reference");
    let (got, vio) = update(device, counts, &bias, speed);
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&got), bits(&expected), "{} experts", counts.len());
    // Two conversions and a quotient, each rounded once.
    let exact = max_vio(counts);
    assert!(
        (f64::from(vio) - exact).abs() <= 3.01 * exact / f64::from(1 << 24),
        "MaxVio {vio}, exactly {exact}"
    );
}

#[test]
fn biases_move_by_exactly_the_speed() {
    for device in devices() {
        for experts in [1, 2, 3, 5, 64, 256, 257, 512] {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(experts as u64);
            let counts: Vec<u32> = (0..experts).map(|_| rng.random_range(0..40)).collect();
            check_update(&device, &counts, 1e-3);
            check_update(&device, &vec![17; experts], 1e-2);
            check_update(&device, &vec![0; experts], 1e-2);
        }
        check_update(&device, &[], 1e-3);
    }
}

/// In FP32 these loads would equal the mean, and in 32 bits their sum and their products overflow.
#[test]
fn signs_are_exact_for_loads_of_any_size() {
    for device in devices() {
        let mut counts = vec![u32::MAX - 1; 512];
        counts[3] -= 1;
        counts[200] += 1;
        check_update(&device, &counts, 0.5);
        counts[200] -= 1;
        check_update(&device, &counts, 0.5);
        let (bias, vio) = update(&device, &[1 << 31, 1 << 31, 1 << 31], &[1.0, 2.0, 3.0], 0.5);
        assert_eq!((bias, vio), (vec![1.0, 2.0, 3.0], 0.0));
    }
}

#[test]
fn the_loss_of_a_sequence() {
    let shapes =
        [(1, 1, 1, 1), (3, 17, 64, 6), (2, 40, 256, 8), (4, 9, 5, 2), (1, 33, 512, 32), (2, 100, 160, 6)];
    for device in devices() {
        for (sequences, length, experts, top_k) in shapes {
            let rng = Xoshiro256PlusPlus::seed_from_u64(experts as u64);
            let logits = rng.sample_iter::<f32, _>(StandardNormal).take(sequences * length * experts);
            // Rounded logits: many ties.
            let scores: Vec<f32> = logits.map(|x| sigmoid_f32((2.0 * x).round() / 2.0)).collect();
            let spec = SequenceBalanceLossSpec { sequences, length, experts, top_k, alpha: 0.25 };
            let got = losses(&device, &scores, spec);
            for (scores, got) in scores.chunks(length * experts).zip(&got) {
                let (loss, bound) = sequence_balance_loss(scores, experts, top_k, CHAINS).expect("reference");
                let error = (f64::from(*got) - 0.25 * loss).abs();
                assert!(error <= 0.25 * bound, "{got}, exactly {} ({spec:?})", 0.25 * loss);
            }
            let alone = losses(
                &device,
                &scores[..length * experts],
                SequenceBalanceLossSpec { sequences: 1, ..spec },
            );
            assert_eq!(alone[0].to_bits(), got[0].to_bits(), "a loss depends on its own sequence");
        }
    }
}

/// Every expert chosen equally often, with equal scores: exactly alpha. One expert for all: more.
#[test]
fn perfect_balance_costs_alpha() {
    let (experts, top_k, length) = (64, 8, 64);
    let spec = SequenceBalanceLossSpec { sequences: 1, length, experts, top_k, alpha: 1.0 };
    let turning = |t: usize, e: usize| if (e + experts - t) % experts < top_k { 0.5 } else { 0.25 };
    let fixed = |_: usize, e: usize| if e < top_k { 0.5 } else { 0.25 };
    for device in devices() {
        let scores = |f: &dyn Fn(usize, usize) -> f32| {
            (0..length * experts).map(|i| f(i / experts, i % experts)).collect::<Vec<_>>()
        };
        let balanced = losses(&device, &scores(&turning), spec)[0];
        assert!((balanced - 1.0).abs() < 1e-5, "{balanced}");
        // f = 8 for eight experts, each with a share of 0.5 / (8 * 0.5 + 56 * 0.25).
        let uneven = losses(&device, &scores(&fixed), spec)[0];
        assert!((uneven - 64.0 * 0.5 / 18.0).abs() < 1e-4, "{uneven}");
        assert_eq!(losses(&device, &[], SequenceBalanceLossSpec { length: 0, ..spec }), [0.0]);
        assert_eq!(losses(&device, &[], SequenceBalanceLossSpec { sequences: 0, ..spec }), [0.0; 0]);
        assert!(losses(&device, &[f32::NAN; 64], SequenceBalanceLossSpec { length: 1, ..spec })[0].is_nan());
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
        softmax: false,
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
            let counts = count(&device, &ids, 2, &vec![0; experts]);
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
