//! Faults in the router and in what balances it.

mod balance;
mod gate;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    [gate::PROBLEMS, balance::PROBLEMS].concat()
}
