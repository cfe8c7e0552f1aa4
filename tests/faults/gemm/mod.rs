//! Faults in the GEMMs.

mod dense;
mod grouped;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    [dense::PROBLEMS, grouped::PROBLEMS].concat()
}
