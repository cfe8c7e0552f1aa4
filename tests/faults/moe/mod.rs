//! Faults in the kernels around the experts' GEMMs.

mod combine;
mod expert_map;
mod gather_quantize;
mod swiglu_quantize;

use super::Trial;

pub fn trials() -> Vec<Trial> {
    [expert_map::TRIALS, &[gather_quantize::GATHER, swiglu_quantize::SWIGLU, combine::COMBINE]].concat()
}
