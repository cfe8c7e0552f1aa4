//! Faults in the kernels around the experts' GEMMs.

mod combine;
mod expert_map;
mod gather_quantize;
mod swiglu_quantize;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    vec![expert_map::MAP, gather_quantize::GATHER, swiglu_quantize::SWIGLU, combine::COMBINE]
}
