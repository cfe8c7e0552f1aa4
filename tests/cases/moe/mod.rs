mod combine;
mod expert_map;
mod layer;
mod swiglu_quantize;
