//! sqrt(softplus) of logits: within its bound, and what torch gives.

use std::sync::Arc;

use check::case::{attempt, memory_of};
use check::devices::devices;
use check::goldens::integers;
use check::router::gate::{GateCase, GateInputs, GateProblem};
use check::router::gate_model;
use deepseek_kernels::Device;
use deepseek_kernels::router::{GateSpec, Scoring};
use oracles::router::{SQRT_SOFTPLUS_ROUNDINGS, gate_weights_bound, sqrt_softplus};
use oracles::sqrt_softplus_f32;

/// Half the distance from 1 to the next `f32`.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Where the exponential is a normal number its roundings are what counts; below, half the least subnormal, under the root.
fn bound(exact: f64) -> f64 {
    let roundings = SQRT_SOFTPLUS_ROUNDINGS * ROUNDING;
    roundings / (1.0 - roundings) * exact + if exact < 1e-18 { 2.0_f64.powi(-74) } else { 0.0 }
}

#[test]
fn the_score_is_within_its_bound() {
    let mut worst: f64 = 0.0;
    let mut check = |x: f32| {
        let (exact, got) = (sqrt_softplus(x.into()), f64::from(sqrt_softplus_f32(x)));
        assert!((got - exact).abs() <= bound(exact), "{x:e}: {got:e} for {exact:e}");
        if exact > 1e-18 {
            worst = worst.max((got - exact).abs() / exact / ROUNDING);
        }
    };
    (0..2_000_000).for_each(|i| check((-110.0 + 220.0 * f64::from(i) / 2e6) as f32));
    // Every exponent and some of its numbers, of either sign.
    (0..0x7f80_u32).for_each(|upper| [0, 0x8000_0000].iter().for_each(|sign| check(f32::from_bits(sign | upper << 16 | 0x5555))));
    println!("sqrt_softplus_f32: {worst:.3} roundings of {SQRT_SOFTPLUS_ROUNDINGS}");
}

#[test]
fn special_logits() {
    let special = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -104.5, 0.0, -0.0];
    let scores = special.map(sqrt_softplus_f32);
    assert_eq!(scores[..4], [f32::INFINITY, 0.0, f32::MAX.sqrt(), 0.0]);
    assert_eq!(scores[4..], [0.0, 0.832_554_64, 0.832_554_64]);
    assert!(sqrt_softplus_f32(f32::NAN).is_nan() && sqrt_softplus_f32(-f32::NAN).is_nan());
}

fn route(device: &Device, spec: GateSpec, logits: Vec<f32>, bias: Vec<f32>) -> (Vec<i32>, Vec<f32>, Vec<f32>) {
    let case = GateCase::select(spec);
    let problem = GateProblem { inputs: GateInputs::Logits(logits), bias: Some(bias), ..case.problem() };
    let ran = attempt(Arc::new(problem), device, memory_of("scores"));
    let outputs = ran.unwrap_or_else(|error| panic!("{error:#}")).outputs;
    (outputs[0].values(), outputs[1].values(), outputs[2].values())
}

/// What torch computes: its scores in FP64 within the bound, those in FP32, whose functions are within an ulp too, within twice as
/// much; the same experts, and weights within the bounds of both.
#[test]
fn torch_scores_and_routes_the_same() {
    const TOKENS: usize = 64;
    let lines = || include_str!("../../goldens/gate_scores.txt").lines();
    let fields = |line: &str| line.split(' ').skip(1).map(|x| x.parse().expect("a number")).collect::<Vec<f64>>();
    let scores: Vec<_> = lines().filter(|line| line.starts_with("score")).map(fields).collect();
    let routes: Vec<_> = lines().filter(|line| line.starts_with("route")).map(fields).collect();
    assert!(scores.len() == 20 && scores.len() + routes.len() == lines().count());
    for device in devices() {
        let x: Vec<f32> = scores.iter().map(|fields| fields[0] as f32).collect();
        let spec = GateSpec::new(1, 32, x.len(), 1).scoring(Scoring::SqrtSoftplus);
        let (_, _, got) = route(&device, spec, x.clone(), vec![0.0; x.len()]);
        for (fields, got) in scores.iter().zip(got) {
            let [x, exact, single] = fields[..] else { panic!("three numbers") };
            let got = f64::from(got);
            assert!(got == exact || (got - exact).abs() <= bound(exact), "{x}: {got} for {exact}");
            assert!(got == single || (got - single).abs() <= 2.0 * bound(exact), "{x}: {got}, torch {single}");
        }
        for (experts, top_k) in [(384, 8), (896, 16)] {
            let spec = GateSpec::new(TOKENS, 32, experts, top_k).scoring(Scoring::SqrtSoftplus).route_scale(1.5);
            let large = integers(TOKENS * experts, 21).map(|x| x / 32.0);
            let logits: Vec<f32> = large.zip(integers(TOKENS * experts, 22)).map(|(x, y)| x + y / 8192.0).collect();
            let bias = integers(experts, 23).map(|x| x / 512.0).collect();
            let (ids, weights, _) = route(&device, spec, logits.clone(), bias);
            let bounds = gate_weights_bound(&gate_model(&spec), &logits, &ids);
            let mut known = 0;
            for fields in routes.iter().filter(|fields| fields[0] == experts as f64) {
                let routes = fields[1] as usize * top_k..(fields[1] as usize + 1) * top_k;
                let mut got: Vec<_> = routes.map(|route| (ids[route], weights[route], bounds[route].1)).collect();
                got.sort_by_key(|route| route.0);
                let (expected, torch) = (&fields[2..2 + top_k], &fields[2 + top_k..]);
                assert!(got.iter().map(|route| f64::from(route.0)).eq(expected.iter().copied()), "{got:?}: {fields:?}");
                let near = |(route, torch): (&(i32, f32, f64), &f64)| (f64::from(route.1) - torch).abs() <= 2.0 * route.2;
                assert!(got.iter().zip(torch).all(near), "{got:?}: {fields:?}");
                known += 1;
            }
            assert!(known > 50, "{known} tokens of {experts} experts");
        }
    }
}
