//! Faults in the GEMMs.

mod dense;
mod grouped;

use super::Trial;

pub fn trials() -> Vec<Trial> {
    [dense::TRIALS, grouped::TRIALS].concat()
}
