mod combine;
mod expert_map;
mod gather_quantize;
mod moe_layer;
mod swiglu_quantize;
