//! The router: experts, weights and logits bit for bit what the references give, and within the bounds of exact ones.

use std::sync::Arc;

use check::case::{Expected, attempt, memory_of, pass};
use check::devices::{devices, runs_emulated, schedules};
use check::goldens::integers;
use check::memory::Output;
use check::router::gate::{GateCase, GateInputs, GateProblem, Source};
use check::router::gate_model;
use deepseek_kernels::router::{GateSpec, GroupScore, Scoring};
use deepseek_kernels::{Device, bf16};
use oracles::router::{GateOptions, gate_weights_bound};
use oracles::{exp_f32, sigmoid_f32};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

fn normal(count: usize, scale: f32, seed: u64) -> Vec<f32> {
    let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    rng.sample_iter::<f32, _>(StandardNormal).take(count).map(|x| x * scale).collect()
}

/// What a router chose.
#[derive(Debug, PartialEq)]
struct Routed {
    ids: Vec<i32>,
    weights: Vec<f32>,
}

impl Routed {
    fn of(outputs: &[Output]) -> Self {
        Self { ids: outputs[0].values(), weights: outputs[1].values() }
    }
}

fn outputs(problem: GateProblem, device: &Device) -> Vec<Output> {
    attempt(Arc::new(problem), device, memory_of("gate")).unwrap_or_else(|error| panic!("{error:#}")).outputs
}

/// The choice from logits.
fn select(device: &Device, spec: &GateSpec, logits: &[f32], options: GateOptions) -> Routed {
    let problem = GateProblem {
        case: GateCase::select(*spec),
        inputs: GateInputs::Logits(logits.to_vec()),
        bias: options.bias.map(<[f32]>::to_vec),
        mask: options.mask.map(<[u32]>::to_vec),
        fixed_ids: options.fixed_ids.map(<[i32]>::to_vec),
        expected: Expected::default(),
    };
    Routed::of(&outputs(problem, device))
}

#[test]
fn exponential_and_sigmoid_of_the_reference() {
    let ulp = |x: f64| (x as f32).next_up() as f64 - f64::from(x as f32);
    let mut worst: f64 = 0.0;
    for step in 0..4_000_000_i32 {
        let x = -103.9 + 192.6 * f64::from(step) / 4e6;
        let x = x as f32;
        let exact = f64::from(x).exp();
        worst = worst.max((f64::from(exp_f32(x)) - exact).abs() / ulp(exact));
    }
    assert!(worst <= 1.0, "{worst} ulp");
    println!("exp_f32: {worst:.3} ulp");
    assert_eq!([-105.0, f32::NEG_INFINITY].map(exp_f32), [0.0; 2]);
    assert_eq!([88.9, f32::INFINITY].map(exp_f32), [f32::INFINITY; 2]);
    assert!(exp_f32(f32::NAN).is_nan());
    assert_eq!([0.0, f32::INFINITY, f32::NEG_INFINITY].map(sigmoid_f32), [0.5, 1.0, 0.0]);
}

/// The criterion of the project: the experts of 100 % of the tokens, weights within 2e-7, their sum 2.5.
#[test]
fn deepseek_v3_routes_4096_tokens() {
    let spec = GateSpec::deepseek_v3(4096);
    let logits = normal(4096 * 256, 1.0, 1);
    let bias = normal(256, 0.1, 2);
    let negative: Vec<f32> = bias.iter().map(|b| b - 1.5).collect();
    for device in devices() {
        for bias in [None, Some(&bias[..]), Some(&negative)] {
            let got = select(&device, &spec, &logits, GateOptions { bias, ..Default::default() });
            for ((exact, _), weight) in
                gate_weights_bound(&gate_model(&spec), &logits, &got.ids).iter().zip(&got.weights)
            {
                assert!((exact - f64::from(*weight)).abs() <= 2e-7);
            }
            for (ids, weights) in got.ids.chunks(8).zip(got.weights.chunks(8)) {
                let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                assert!((sum - 2.5).abs() <= 1e-6, "weights add up to {sum}");
                let mut groups: Vec<i32> = ids.iter().map(|id| id / 32).collect();
                groups.sort_unstable();
                groups.dedup();
                assert!(groups.len() <= 4, "experts {ids:?} of {} groups", groups.len());
            }
        }
    }
}

/// Equal scores everywhere, and logits of few values, so that most decisions are ties.
#[test]
fn of_equals_the_lowest_index_wins() {
    let spec = GateSpec::deepseek_v3(256);
    for device in devices() {
        let got = select(&device, &spec, &vec![0.0; 256 * 256], GateOptions::default());
        assert!(got.ids.chunks(8).all(|ids| ids == [0, 1, 2, 3, 4, 5, 6, 7]), "{:?}", &got.ids[..8]);
        let coarse: Vec<f32> = normal(256 * 256, 1.0, 3).into_iter().map(f32::round).collect();
        let negative = vec![-1.5; 256];
        for bias in [None, Some(&negative[..])] {
            select(&device, &spec, &coarse, GateOptions { bias, ..Default::default() });
        }
        let v2 = GateSpec::deepseek_v2(64);
        select(&device, &v2, &coarse[..64 * 160], GateOptions::default());
    }
}

#[test]
fn deepseek_v2_and_v2_lite() {
    for device in devices() {
        for spec in [GateSpec::deepseek_v2(300), GateSpec::deepseek_v2_lite(300)] {
            let logits = normal(300 * spec.experts, 2.0, 4);
            select(&device, &spec, &logits, GateOptions::default());
        }
    }
}

/// More experts than a lane of the usual kernel holds.
const MANY: [(usize, usize, usize); 7] =
    [(513, 1, 1), (896, 1, 1), (896, 8, 4), (896, 14, 6), (896, 32, 5), (1024, 1, 1), (1024, 32, 7)];

/// Any number of experts, split any way.
#[test]
fn every_number_of_experts() {
    let groupings =
        [(1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 5), (5, 1, 1), (256, 32, 3), (257, 1, 1), (512, 8, 4)];
    for device in devices() {
        for (experts, groups, kept_groups) in
            groupings.into_iter().chain([(72, 4, 2), (72, 8, 3), (512, 16, 16)]).chain(MANY)
        {
            for (scoring, group_score) in [
                (Scoring::Sigmoid, GroupScore::TopTwoSum),
                (Scoring::Softmax, GroupScore::Max),
                (Scoring::SqrtSoftplus, GroupScore::TopTwoSum),
            ] {
                let most = (experts / groups * kept_groups).min(32);
                for top_k in [1, 6, 16, 32].map(|top_k: usize| top_k.min(most)) {
                    let normalize = scoring != Scoring::Softmax;
                    let spec = GateSpec::new(9, 7168, experts, top_k)
                        .groups(groups)
                        .kept_groups(kept_groups)
                        .scoring(scoring)
                        .group_score(group_score)
                        .normalize(normalize)
                        .route_scale(2.5);
                    let logits = normal(9 * experts, 1.0, experts as u64);
                    let bias = normal(experts, 0.5, 5);
                    let bias = (top_k != 6).then_some(&bias[..]);
                    select(&device, &spec, &logits, GateOptions { bias, ..Default::default() });
                }
            }
        }
    }
}

/// NaN and -Inf are never chosen, whatever they are called; +Inf is the best.
#[test]
fn nonfinite_logits_and_biases() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, 200.0, -200.0, 0.0, -0.0];
    for device in devices() {
        let softplus = GateSpec::deepseek_v3(40).scoring(Scoring::SqrtSoftplus);
        let specs = [(GateSpec::deepseek_v3(40), "V3"), (GateSpec::deepseek_v2(40), "V2"), (softplus, "softplus")];
        for (spec, name) in specs {
            let experts = spec.experts;
            let mut logits = normal(40 * experts, 1.0, 6);
            for (t, row) in logits.chunks_mut(experts).enumerate() {
                let every = [1, 2, 7, 61][t % 4];
                row.iter_mut()
                    .step_by(every)
                    .enumerate()
                    .for_each(|(i, x)| *x = special[(i * 5 + t / 4) % 8]);
            }
            logits[..experts].fill(f32::NAN);
            logits[experts..2 * experts].fill(f32::NEG_INFINITY);
            let got = select(&device, &spec, &logits, GateOptions::default());
            assert!(got.ids[..spec.top_k].iter().all(|&id| id == -1), "{name}: {:?}", &got.ids[..spec.top_k]);
            // An infinite score has an infinite sum.
            assert!(spec == softplus || got.weights.iter().all(|w| !w.is_nan()), "{name}");

            logits.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
            let mut bias = normal(experts, 0.1, 7);
            bias.iter_mut().step_by(3).enumerate().for_each(|(i, b)| *b = special[i % 4]);
            select(&device, &spec, &logits, GateOptions { bias: Some(&bias), ..Default::default() });
            let off = vec![f32::NEG_INFINITY; experts];
            let got = select(&device, &spec, &logits, GateOptions { bias: Some(&off), ..Default::default() });
            assert!(got.ids.iter().all(|&id| id == -1), "{name}");
        }
    }
}

#[test]
fn padding_and_shared_experts() {
    let spec = GateSpec::deepseek_v3(50).shared(2);
    let logits = normal(50 * 256, 1.0, 8);
    let mask: Vec<u32> = (0..50).map(|t| if t % 3 == 0 { 0 } else { t }).collect();
    for device in devices() {
        let got = select(&device, &spec, &logits, GateOptions { mask: Some(&mask), ..Default::default() });
        assert_eq!((&got.ids[..10], &got.weights[..10]), (&[-1; 10][..], &[0.0; 10][..]));
        assert_eq!((&got.ids[18..20], &got.weights[18..20]), (&[256, 257][..], &[1.0; 2][..]));
    }
}

/// A choice that is given is kept; what is no expert has no weight and is told of.
#[test]
fn fixed_routing() {
    let spec = GateSpec::deepseek_v3(30).shared(1);
    let logits = normal(30 * 256, 1.0, 9);
    let mut ids: Vec<i32> = (0..240).map(|i| i * 37 % 256).collect();
    for device in devices() {
        let fixed = |ids: &[i32]| {
            select(&device, &spec, &logits, GateOptions { fixed_ids: Some(ids), ..Default::default() })
        };
        let chosen = select(&device, &spec, &logits, GateOptions::default());
        let routed: Vec<i32> = chosen.ids.chunks(9).flat_map(|ids| &ids[..8]).copied().collect();
        assert_eq!(fixed(&routed), chosen, "the router's own choice gives its own weights");
        ids[5] = -1;
        fixed(&ids);
        for bad in [256, -2, i32::MIN, i32::MAX] {
            ids[10] = bad;
            let got = fixed(&ids);
            assert!(got.ids[11] == -1 && got.weights[11] == 0.0, "{bad}");
        }
        ids[10] = 3;
        ids[16..24].fill(-1);
        assert_eq!(fixed(&ids).weights[18..26], [0.0; 8]);
    }
}

/// What makes a score or a choice by no number is told, unless it is padding's or leaves an expert out; a bias that is not
/// read is nobody's.
#[test]
fn what_is_not_finite_is_reported() {
    let spec = GateSpec::deepseek_v3(3);
    let good = normal(3 * 256, 1.0, 10);
    let ids: Vec<i32> = (0..24).collect();
    for device in devices() {
        let run = |at: usize, value, options: GateOptions<'_>| {
            let mut logits = good.clone();
            logits[at] = value;
            select(&device, &spec, &logits, options);
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            run(2 * 256 + 255, value, GateOptions::default());
            run(256 + 33, value, GateOptions { mask: Some(&[1, 0, 1]), ..Default::default() });
            let mut bias = vec![-0.5; 256];
            bias[200] = value;
            for fixed_ids in [None, Some(&ids[..])] {
                run(0, 0.0, GateOptions { bias: Some(&bias), mask: None, fixed_ids });
            }
            run(0, 0.0, GateOptions { bias: Some(&[value; 256]), ..Default::default() });
        }
    }
}

/// Hidden states with a NaN score, under a choice that is given: that expert has no weight, the others keep theirs.
#[test]
fn fixed_routing_of_a_nan() {
    let mut spec = GateSpec::deepseek_v3(1);
    spec.top_k = 3;
    let mut logits = vec![0.0; 256];
    logits[7] = f32::NAN;
    for device in devices() {
        let options = GateOptions { fixed_ids: Some(&[9, 7, 200]), ..Default::default() };
        assert_eq!(select(&device, &spec, &logits, options).weights, [1.25, 0.0, 1.25]);
    }
}

/// One group of experts.
fn small(tokens: usize, hidden: usize, experts: usize) -> GateSpec {
    let top_k = experts.min(8);
    GateSpec::new(tokens, hidden, experts, top_k).route_scale(2.5)
}

/// DeepSeek-V3's router of shorter tokens.
fn narrow(tokens: usize, hidden: usize) -> GateSpec {
    let mut spec = GateSpec::deepseek_v3(tokens);
    spec.hidden = hidden;
    spec
}

#[test]
fn logits_of_every_shape() {
    let shapes = [
        (1, 32, 1),
        (31, 1024, 5),
        (33, 1056, 64),
        (32, 2048, 65),
        (70, 96, 257),
        (3, 3136, 130),
        (5, 64, 512),
        (5, 64, 896),
    ];
    for device in devices() {
        for (tokens, hidden, experts) in shapes {
            for source in [Source::F32, Source::Bf16] {
                pass(&GateCase { source, ..GateCase::new(small(tokens, hidden, experts)) }, &device);
            }
        }
    }
}

/// Everything that a choice may depend on, with scores and without.
#[test]
fn every_option_from_every_source() {
    let spec = narrow(37, 96).shared(1);
    for device in devices() {
        for source in [Source::F32, Source::Bf16, Source::Logits] {
            let case = GateCase { source, ..GateCase::new(spec) };
            assert_eq!(pass(&case, &device).len(), 3);
            pass(&GateCase { bias: true, mask: true, ..case }, &device);
            let without = GateCase { bias: true, fixed: true, scores: false, ..case };
            assert_eq!(pass(&without, &device).len(), 2, "optional outputs are optional");
        }
    }
}

#[test]
fn the_router_of_deepseek_v3() {
    for device in devices() {
        let tokens = if runs_emulated(&device) { 3 } else { 300 };
        pass(&GateCase::new(GateSpec::deepseek_v3(tokens)), &device);
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for spec in [small(0, 64, 8), small(3, 0, 8)] {
            pass(&GateCase::new(spec), &device);
        }
    }
}

/// Tokens from `first` on, as a batch of their own.
fn part(mut problem: GateProblem, first: usize, tokens: usize) -> GateProblem {
    let GateInputs::F32 { x, .. } = &mut problem.inputs else { panic!("hidden states") };
    let hidden = problem.case.spec.hidden;
    *x = x[first * hidden..][..tokens * hidden].to_vec();
    problem.case.spec.tokens = tokens;
    problem
}

/// A token's experts, weights and scores depend on no other token.
#[test]
fn a_token_is_routed_the_same_in_every_batch() {
    let problem = GateCase::new(narrow(70, 1056)).problem();
    for device in devices() {
        let all = outputs(problem.clone(), &device);
        for (first, tokens) in [(0, 1), (33, 1), (69, 1), (5, 40), (31, 2)] {
            let some = outputs(part(problem.clone(), first, tokens), &device);
            for (some, all) in some.iter().zip(&all) {
                let row = all.bytes.len() / 70;
                assert!(some.bytes == all.bytes[first * row..][..tokens * row], "{} from {first}", some.name);
            }
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let case = GateCase::new(narrow(34, 1056));
    for machines in schedules(3) {
        let runs: Vec<_> = machines.iter().map(|device| pass(&case, device)).collect();
        assert!(runs.windows(2).all(|pair| pair[0] == pair[1]), "{}", machines[0].name());
    }
}

/// What Hugging Face's router of DeepSeek-V3 chose for the same hidden states: the same experts, weights within 2e-7.
#[test]
fn hugging_face_routes_the_same() {
    const TOKENS: usize = 256;
    let spec = narrow(TOKENS, 64);
    let x: Vec<bf16> = integers(TOKENS * 64, 1).map(|x| bf16::from_f32(x / 64.0)).collect();
    let weight: Vec<f32> = integers(256 * 64, 2).map(|x| x / 1024.0).collect();
    let bias: Vec<f32> = integers(256, 3).map(|x| x / 1024.0).collect();
    let biases = [vec![0.0; 256], bias.clone(), bias.iter().map(|b| b - 1.5).collect()];
    for device in devices() {
        let mut lines = include_str!("../../goldens/gate.txt").lines().peekable();
        for (case, bias) in biases.iter().enumerate() {
            let inputs = GateInputs::F32 { x: x.clone(), weight: weight.clone() };
            let problem = GateProblem { inputs, bias: Some(bias.clone()), ..GateCase::new(spec).problem() };
            let got = Routed::of(&outputs(problem, &device));
            let mut tokens = 0;
            while let Some(line) = lines.next_if(|line| line.starts_with(&format!("{case} "))) {
                let fields: Vec<f64> =
                    line.split(' ').map(|field| field.parse().expect("a number")).collect();
                let (t, expected) = (fields[1] as usize, (&fields[2..10], &fields[10..]));
                let routes = got.ids[8 * t..][..8].iter().zip(&got.weights[8 * t..][..8]);
                let mut routes: Vec<(f64, f64)> = routes.map(|(&id, &w)| (id.into(), w.into())).collect();
                routes.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(
                    routes.iter().map(|s| s.0).eq(expected.0.iter().copied()),
                    "case {case}, token {t}: {routes:?}, {line}"
                );
                let apart = routes.iter().zip(expected.1).map(|(s, w)| (s.1 - w).abs()).fold(0.0, f64::max);
                assert!(apart <= 2e-7, "case {case}, token {t}: weights differ by {apart:e}");
                tokens += 1;
            }
            assert!(tokens > 200, "{tokens} tokens of case {case}");
        }
        assert_eq!(lines.next(), None);
    }
}
