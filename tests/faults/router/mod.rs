//! Faults in the router and in what balances it.

mod balance;
mod gate;

use super::Trial;

pub fn trials() -> Vec<Trial> {
    [gate::TRIALS, balance::TRIALS].concat()
}
