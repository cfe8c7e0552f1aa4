//! The combine: byte for byte what the reference gives.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{devices, seeded};
use check::memory::Memory;
use check::moe::combine::{CombineCase, CombineProblem};
use check::moe::expert_map::{ExpertMapCase, ExpertMapProblem, mapped};
use check::moe::{ROUTINGS, Routing};
use deepseek_kernels::{Device, bf16};
use proptest::prelude::*;

fn run(problem: CombineProblem, device: &Device) -> Vec<bf16> {
    let ran = attempt(Arc::new(problem), device, memory_of("combine"));
    ran.unwrap_or_else(|error| panic!("{error:#}")).outputs[0].values()
}

fn routed(shape: (usize, usize, usize), routing: Routing, seed: u64) -> ExpertMapCase {
    ExpertMapCase { routing, seed, ..ExpertMapCase::new(shape) }
}

/// With any of what may be added.
fn choice(case: CombineCase, choice: u8) -> CombineCase {
    CombineCase { weighted: choice & 1 != 0, shared: choice & 2 != 0, residual: choice & 4 != 0, ..case }
}

/// Nothing but rows.
fn bare(shape: (usize, usize), hidden: usize) -> CombineCase {
    choice(CombineCase::new(ExpertMapCase::new((shape.0, shape.1, 1)), hidden), 0)
}

#[test]
fn every_combination_of_addends() {
    for device in devices() {
        let case = CombineCase::new(routed((33, 8, 20), Routing::Strangers, 4), 136);
        (0..8).for_each(|addends| drop(pass(&choice(case, addends), &device)));
    }
}

#[test]
fn every_routing_and_number_of_routes() {
    for device in devices() {
        for (index, routing) in ROUTINGS.into_iter().enumerate() {
            for top_k in [1, 2, 3, 4, 5, 8, 9] {
                let map = routed((19, top_k, 12), routing, top_k as u64);
                pass(&choice(CombineCase::new(map, 8 * (index + 1)), 1), &device);
            }
        }
    }
}

/// Rows that no route has, and weights of dropped routes, hold NaN.
#[test]
fn what_is_dropped_is_not_read() {
    for device in devices() {
        let case = choice(bare((20, 4), 64), 1);
        let mut problem = case.problem();
        problem.route_row = (0..80).map(|route| if route % 3 == 0 { -1 } else { 2 * route }).collect();
        problem.y = case.values(160, 6);
        let rows = problem.y.chunks_mut(64).enumerate();
        rows.filter(|(row, _)| row % 2 == 1 || row % 6 == 0).for_each(|(_, y)| y.fill(bf16::NAN));
        problem.weights.iter_mut().flat_map(|w| w.iter_mut().step_by(3)).for_each(|w| *w = f32::NAN);
        assert!(run(problem, &device).iter().all(|x| !x.is_nan()));
    }
}

/// The judge knows that it is told of them.
#[test]
fn rows_that_do_not_exist_add_nothing() {
    for device in devices() {
        for bad in [i32::MIN, -2, 15, 16, i32::MAX] {
            let mut problem = bare((5, 3), 16).problem();
            problem.route_row = (0..15).collect();
            problem.route_row[4] = bad;
            let got = run(problem.clone(), &device);
            problem.route_row[4] = -1;
            assert_eq!(got, run(problem, &device), "{bad}");
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for case in [bare((0, 2), 8), bare((3, 2), 0), choice(bare((4, 0), 8), 2), bare((4, 0), 8)] {
            pass(&case, &device);
        }
    }
}

/// Rows of eight equal values each.
fn rows<const N: usize>(values: [f32; N]) -> Vec<bf16> {
    values.iter().flat_map(|&x| [bf16::from_f32(x); 8]).collect()
}

/// The order of the routes is part of the contract: here it decides the result.
#[test]
fn routes_are_added_in_ascending_order() {
    for device in devices() {
        let sum = |route_row: [i32; 4]| {
            let (y, route_row) = (rows([1.0, 3e8, -3e8, 0.5]), route_row.to_vec());
            run(CombineProblem { y, route_row, ..bare((1, 4), 8).problem() }, &device)[0].to_f32()
        };
        assert_eq!(sum([0, 1, 2, 3]), 0.5, "1 is lost beside 3e8");
        assert_eq!(sum([1, 2, 0, 3]), 1.5);
    }
}

/// A product that FP32 cannot hold, taken from itself: an fma leaves its rounding error, a product and a sum leave 0.
#[test]
fn a_route_is_one_fma() {
    for device in devices() {
        let (value, weight) = (1.007_812_5_f32, 1.234_567_8_f32);
        let problem = CombineProblem {
            y: rows([value, -value]),
            route_row: vec![0, 1],
            weights: Some(vec![weight; 2]),
            ..bare((1, 2), 8).problem()
        };
        let error = f64::from(weight * value) - f64::from(weight) * f64::from(value);
        assert_ne!(error, 0.0);
        assert_eq!(run(problem, &device), [bf16::from_f64(error); 8]);
    }
}

/// Shared experts after the routes, the residual last, and one rounding.
#[test]
fn shared_then_residual_then_one_rounding() {
    for device in devices() {
        let sum = |y: f32, shared: f32, residual: f32| {
            let (shared, residual) = (Some(rows([shared])), Some(rows([residual])));
            let problem = CombineProblem {
                y: rows([y]),
                route_row: vec![0],
                shared,
                residual,
                ..bare((1, 1), 8).problem()
            };
            run(problem, &device)[0].to_f32()
        };
        assert_eq!(sum(1.0, 3e8, -3e8), 0.0, "shared comes before the residual");
        assert_eq!(sum(3e8, -3e8, 1.0), 1.0);
        // 1 + 2^-9 + 2^-9 is one BF16 step above 1; rounded in between, it would be 1.
        assert_eq!(sum(1.0, 0.001_953_125, 0.001_953_125 + 0.000_061_035_156), 1.007_812_5);
    }
}

#[test]
fn a_permutation_of_tokens_permutes_the_result_and_a_split_keeps_it() {
    let (tokens, top_k, hidden, experts) = (41, 4, 72, 9);
    let all = choice(CombineCase::new(routed((tokens, top_k, experts), Routing::Uniform, 3), hidden), 1);
    let ids = all.map.problem().ids;
    let w = all.problem().weights.expect("weights");
    for device in devices() {
        // What the experts return depends on the token and the expert, not on the row.
        let of_tokens = |order: &[usize]| {
            let routes: Vec<usize> = order.iter().flat_map(|&t| t * top_k..(t + 1) * top_k).collect();
            let case = ExpertMapCase::new((order.len(), top_k, experts));
            let map = ExpertMapProblem { case, ids: routes.iter().map(|&route| ids[route]).collect(), local_ids: None };
            let map = attempt(Arc::new(map), &device, memory_of("map")).expect("right").outputs;
            let map = mapped(&map);
            let expert_row = |&route: &i32| all.values(1, routes[route as usize] as u64 + 100);
            let problem = CombineProblem {
                y: map.row_route.iter().flat_map(expert_row).collect(),
                route_row: map.route_row,
                weights: Some(routes.iter().map(|&route| w[route]).collect()),
                ..choice(bare((order.len(), top_k), hidden), 1).problem()
            };
            run(problem, &device)
        };
        let plain = of_tokens(&(0..tokens).collect::<Vec<_>>());
        let order: Vec<usize> = (0..tokens).map(|t| (t * 17 + 5) % tokens).collect();
        for (token, row) in order.iter().zip(of_tokens(&order).chunks(hidden)) {
            assert_eq!(row, &plain[token * hidden..][..hidden], "token {token}");
        }
        let parts = [0..15, 15..tokens].map(|part| of_tokens(&part.collect::<Vec<_>>()));
        assert_eq!(plain, parts.concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_shape_and_memory(
        tokens in 1..30_usize, top_k in 1..11_usize, pieces in 1..20_usize, rows in 1..60_usize, seed in 0..1_000_u64,
        addends in 0..8_u8, bad in any::<bool>(),
    ) {
        let case = choice(CombineCase::new(routed((tokens, top_k, 7), Routing::Strangers, seed), 8 * pieces), addends);
        let beyond = if bad { 2 } else { 0 };
        let row = |route: usize| ((route * 31 + seed as usize) % (rows + 1 + beyond)) as i32 - 1;
        let route_row = (0..tokens * top_k).map(row).collect();
        let problem = Arc::new(CombineProblem { y: case.values(rows, seed), route_row, ..case.problem() });
        for device in seeded([seed]) {
            attempt(problem.clone(), &device, Memory::Poisoned(seed)).expect("right");
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
