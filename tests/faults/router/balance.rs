//! Faults in what balances the router: loads, biases, the loss.

use check::router::balance::{CHAINS, count, losses, update};
use deepseek_kernels::Device;
use deepseek_kernels::router::SequenceBalanceLossSpec;
use oracles::router::{bias_update, expert_load, max_vio, sequence_balance_loss};

use super::numbers;
use crate::Problem;

pub const PROBLEMS: &[Problem] = &[LOAD, BIAS, LOSS];

const LOAD: Problem = Problem::Probe { kernels: &["expert_load"], run: load };
const BIAS: Problem = Problem::Probe { kernels: &["bias_update"], run: bias };
const LOSS: Problem = Problem::Probe { kernels: &["sequence_balance_loss"], run: loss };

fn load(device: &Device) {
    let (tokens, routes, experts) = (90, 8, 40);
    let mut ids: Vec<i32> = (0..tokens * routes).map(|i| (i * i % 41) as i32 - 1).collect();
    let run = |ids: &[i32]| {
        let before: Vec<u32> = (0..experts).collect();
        let mut expected = before.clone();
        expert_load(ids, &mut expected);
        assert_eq!(count(device, ids, routes, &before), expected, "wrong counts");
    };
    run(&ids);
    device.poll_error().expect("wrong report: -1 is no fault");
    ids[77] = 40;
    run(&ids);
    assert!(device.poll_error().is_err(), "bad id went unreported");
}

fn bias(device: &Device) {
    for base in [0, u32::MAX - 100] {
        // Of every three experts one has the mean, one more and one as much less.
        let more = |e: u32| e / 3 * 37 % 47;
        let load = |e: u32| base + 48 + [0, more(e), 0][e as usize % 3] - [0, 0, more(e)][e as usize % 3];
        let counts: Vec<u32> = (0..258).map(load).collect();
        let before = numbers(counts.len(), 5);
        let mut expected = before.clone();
        bias_update(&counts, &mut expected, 1e-3).expect("reference");
        let (moved, vio) = update(device, &counts, &before, 1e-3);
        let wrong = moved.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(wrong, 0, "wrong biases");
        let exact = max_vio(&counts);
        assert!((f64::from(vio) - exact).abs() <= 1e-6 * exact, "wrong MaxVio");
    }
}

fn loss(device: &Device) {
    let spec = SequenceBalanceLossSpec { sequences: 2, length: 27, experts: 72, top_k: 5, alpha: 0.5 };
    let count = spec.sequences * spec.length * spec.experts;
    let scores: Vec<f32> = numbers(count, 6).iter().map(|x| ((x + 1.5) * 8.0).round() / 8.0).collect();
    for (scores, got) in scores.chunks(spec.length * spec.experts).zip(losses(device, &scores, spec)) {
        let (exact, bound) =
            sequence_balance_loss(scores, spec.experts, spec.top_k, CHAINS).expect("reference");
        assert!((f64::from(got) - 0.5 * exact).abs() <= 0.5 * bound, "wrong loss");
    }
}

faults! {
    last_routes_uncounted: LOAD, "params.t) * params.routes" => "params.t) * params.routes - 8", ["wrong counts"];
    gaps_counted: LOAD,
        "index / params.routes * params.ids_pitch +" => "", "index % params.routes" => "index", ["wrong counts"];
    minus_one_reported: LOAD, "id != UINT32_MAX" => "true", ["wrong report"];
    bad_id_counted: LOAD, "id < params.experts" => "id <= params.experts", ["outside", "around the matrix"];
    bad_id_of_a_count_unreported: LOAD, "id != UINT32_MAX" => "false", ["unreported"];
    sign_reversed: BIAS, "load < loads.total ? bias" => "load > loads.total ? bias", ["wrong biases"];
    mean_is_not_neutral: BIAS, "if (load == loads.total) return;" => "", ["wrong biases"];
    loads_compared_in_32_bits: BIAS, "const uint64_t load =" => "const uint64_t load = (uint32_t)", ["wrong biases"];
    total_in_32_bits: BIAS, "shift < 64" => "shift < 32", ["wrong biases"];
    first_experts_only: BIAS, "e < params.experts; e += 32" => "e < 32; e += 32", ["wrong biases"];
    loss_of_half_the_tokens: LOSS, "t += Config::kWarps" => "t += 2 * Config::kWarps", ["wrong loss"];
    loss_of_the_first_sequence: LOSS,
        "static_cast<uint64_t>(ptx::cta_idx()) * params.length + t" => "t", ["wrong loss"];
    shares_not_normalised: LOSS, "s[i] / sum" => "s[i]", ["wrong loss"];
    no_barrier_before_the_warps_are_added: LOSS, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    one_warp_forgotten: LOSS, "warp < Config::kWarps" => "warp + 1 < Config::kWarps", ["wrong loss"];
}
