//! The combine: byte for byte what the reference gives.

use check::devices::{devices, seeded};
use check::moe::tokens::{Combination, combine_weights, map_rows, values};
use check::moe::{ROUTINGS, Routing};
use deepseek_kernels::bf16;
use deepseek_kernels::moe::{ExpertLayout, ExpertMapSpec};
use oracles::moe::Combined;
use proptest::prelude::*;

#[test]
fn every_combination_of_addends() {
    for device in devices() {
        let (tokens, top_k, hidden) = (33, 8, 136);
        let (y, w) = (values(tokens * top_k * hidden, 1), combine_weights(tokens * top_k));
        let (shared, residual) = (values(tokens * hidden, 2), values(tokens * hidden, 3));
        let route_row = map_rows((tokens, top_k, 20), Routing::Strangers, 4);
        for choice in 0..8 {
            let addends = Combined {
                weights: (choice & 1 != 0).then_some(&w[..]),
                shared: (choice & 2 != 0).then_some(&shared[..]),
                residual: (choice & 4 != 0).then_some(&residual[..]),
            };
            Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends }.check(&device);
        }
    }
}

#[test]
fn every_routing_and_number_of_routes() {
    for device in devices() {
        for (index, routing) in ROUTINGS.into_iter().enumerate() {
            for top_k in [1, 2, 3, 4, 5, 8, 9] {
                let (tokens, hidden) = (19, 8 * (index + 1));
                let (y, w) = (values(tokens * top_k * hidden, 5), combine_weights(tokens * top_k));
                let route_row = map_rows((tokens, top_k, 12), routing, top_k as u64);
                let addends = Combined { weights: Some(&w), ..Combined::default() };
                Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends }.check(&device);
            }
        }
    }
}

/// Rows that no route has, and weights of dropped routes, hold NaN.
#[test]
fn what_is_dropped_is_not_read() {
    for device in devices() {
        let (tokens, top_k, hidden) = (20, 4, 64);
        let route_row: Vec<i32> = (0..80).map(|route| if route % 3 == 0 { -1 } else { 2 * route }).collect();
        let mut y = values(160 * hidden, 6);
        y.chunks_mut(hidden)
            .enumerate()
            .filter(|(row, _)| row % 2 == 1 || row % 6 == 0)
            .for_each(|(_, y)| y.fill(bf16::NAN));
        let mut w = combine_weights(80);
        w.iter_mut().step_by(3).for_each(|w| *w = f32::NAN);
        let addends = Combined { weights: Some(&w), ..Combined::default() };
        let case = Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends };
        case.check(&device);
        assert!(case.run(&device).into_iter().all(|bits| !bf16::from_bits(bits).is_nan()));
    }
}

#[test]
fn rows_that_do_not_exist_add_nothing() {
    for device in devices() {
        let (tokens, top_k, hidden) = (5, 3, 16);
        let y = values(15 * hidden, 7);
        for bad in [i32::MIN, -2, 15, 16, i32::MAX] {
            let mut route_row: Vec<i32> = (0..15).collect();
            route_row[4] = bad;
            Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends: Combined::default() }
                .check(&device);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        let shared = values(4 * 8, 1);
        for (tokens, top_k, hidden, shared) in
            [(0, 2, 8, None), (3, 2, 0, None), (4, 0, 8, Some(&shared[..])), (4, 0, 8, None)]
        {
            let addends = Combined { shared, ..Combined::default() };
            let route_row = vec![-1; tokens * top_k];
            Combination { tokens, top_k, hidden, y: &[], route_row: &route_row, addends }.check(&device);
        }
    }
}

/// The order of the routes is part of the contract: here it decides the result.
#[test]
fn routes_are_added_in_ascending_order() {
    for device in devices() {
        let y: Vec<bf16> = [1.0, 3e8, -3e8, 0.5].iter().flat_map(|&x| [bf16::from_f32(x); 8]).collect();
        let run = |route_row: [i32; 4]| {
            let case = Combination {
                tokens: 1,
                top_k: 4,
                hidden: 8,
                y: &y,
                route_row: &route_row,
                addends: Combined::default(),
            };
            case.check(&device);
            bf16::from_bits(case.run(&device)[0]).to_f32()
        };
        assert_eq!(run([0, 1, 2, 3]), 0.5, "1 is lost beside 3e8");
        assert_eq!(run([1, 2, 0, 3]), 1.5);
    }
}

/// A product that FP32 cannot hold, taken from itself: an fma leaves its rounding error, a product and a sum leave 0.
#[test]
fn a_route_is_one_fma() {
    for device in devices() {
        let (value, weight) = (1.007_812_5_f32, 1.234_567_8_f32);
        let y: Vec<bf16> = [value, -value].iter().flat_map(|&x| [bf16::from_f32(x); 8]).collect();
        let addends = Combined { weights: Some(&[weight; 2]), ..Combined::default() };
        let case = Combination { tokens: 1, top_k: 2, hidden: 8, y: &y, route_row: &[0, 1], addends };
        case.check(&device);
        let error = f64::from(weight * value) - f64::from(weight) * f64::from(value);
        assert_ne!(error, 0.0);
        assert_eq!(case.run(&device), [bf16::from_f64(error).to_bits(); 8]);
    }
}

/// Shared experts after the routes, the residual last, and one rounding.
#[test]
fn shared_then_residual_then_one_rounding() {
    for device in devices() {
        let row = |x: f32| vec![bf16::from_f32(x); 8];
        let run = |y: f32, shared: f32, residual: f32| {
            let (y, shared, residual) = (row(y), row(shared), row(residual));
            let addends = Combined { weights: None, shared: Some(&shared), residual: Some(&residual) };
            let case = Combination { tokens: 1, top_k: 1, hidden: 8, y: &y, route_row: &[0], addends };
            case.check(&device);
            bf16::from_bits(case.run(&device)[0]).to_f32()
        };
        assert_eq!(run(1.0, 3e8, -3e8), 0.0, "shared comes before the residual");
        assert_eq!(run(3e8, -3e8, 1.0), 1.0);
        // 1 + 2^-9 + 2^-9 is one BF16 step above 1; rounded in between, it would be 1.
        assert_eq!(run(1.0, 0.001_953_125, 0.001_953_125 + 0.000_061_035_156), 1.007_812_5);
    }
}

#[test]
fn a_permutation_of_tokens_permutes_the_result_and_a_split_keeps_it() {
    for device in devices() {
        let (tokens, top_k, hidden, experts) = (41, 4, 72, 9);
        let ids = Routing::Uniform.ids((tokens, top_k, experts), 3);
        let w = combine_weights(tokens * top_k);
        // What the experts return depends on the token and the expert, not on the row.
        let run = |order: &[usize]| {
            let spec = ExpertMapSpec { tokens: order.len(), top_k, experts, layout: ExpertLayout::Ragged };
            let routes: Vec<usize> = order.iter().flat_map(|&t| t * top_k..(t + 1) * top_k).collect();
            let ids: Vec<i32> = routes.iter().map(|&route| ids[route]).collect();
            let w: Vec<f32> = routes.iter().map(|&route| w[route]).collect();
            let map = check::moe::map(&device, spec, &ids).expect("map");
            let expert_row = |&route: &i32| values(hidden, routes[route as usize] as u64 + 100);
            let y: Vec<bf16> = map.row_route.iter().flat_map(expert_row).collect();
            let addends = Combined { weights: Some(&w), ..Combined::default() };
            Combination { tokens: order.len(), top_k, hidden, y: &y, route_row: &map.route_row, addends }
                .run(&device)
        };
        let all: Vec<usize> = (0..tokens).collect();
        let order: Vec<usize> = (0..tokens).map(|t| (t * 17 + 5) % tokens).collect();
        let (plain, permuted) = (run(&all), run(&order));
        for (token, row) in order.iter().zip(permuted.chunks(hidden)) {
            assert_eq!(row, &plain[token * hidden..][..hidden], "token {token}");
        }
        assert_eq!(plain, [run(&all[..15]), run(&all[15..])].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_shape(
        tokens in 1..30_usize, top_k in 1..11_usize, pieces in 1..20_usize, rows in 1..60_usize, seed in 0..1_000_u64,
        choice in 0..8_u8, bad in any::<bool>(),
    ) {
        let hidden = 8 * pieces;
        let (y, w) = (values(rows * hidden, seed), combine_weights(tokens * top_k));
        let (shared, residual) = (values(tokens * hidden, seed + 1), values(tokens * hidden, seed + 2));
        let beyond = if bad { 2 } else { 0 };
        let row = |route: usize| ((route * 31 + seed as usize) % (rows + 1 + beyond)) as i32 - 1;
        let route_row: Vec<i32> = (0..tokens * top_k).map(row).collect();
        let addends = Combined {
            weights: (choice & 1 != 0).then_some(&w[..]),
            shared: (choice & 2 != 0).then_some(&shared[..]),
            residual: (choice & 4 != 0).then_some(&residual[..]),
        };
        for device in seeded([seed]) {
            Combination { tokens, top_k, hidden, y: &y, route_row: &route_row, addends }.check(&device);
        }
    }
}
