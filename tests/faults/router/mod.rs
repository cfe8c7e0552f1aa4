//! Faults in the router and in what balances it.

mod balance;
mod gate;

use check::goldens::states;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    [gate::PROBLEMS, balance::PROBLEMS].concat()
}

/// Numbers without a pattern, in [-1, 1).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    states(seed).take(count).map(|state| (state >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}
