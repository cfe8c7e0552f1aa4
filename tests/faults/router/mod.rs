//! Faults in the router and in what balances it.

mod balance;
mod gate;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    [gate::PROBLEMS, balance::PROBLEMS].concat()
}

/// Numbers without a pattern, in [-1, 1).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
