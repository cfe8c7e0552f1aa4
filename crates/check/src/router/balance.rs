//! What balances the router, on operands in poisoned memory.

use deepseek_kernels::Device;
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, SequenceBalanceLoss, SequenceBalanceLossSpec,
};

use super::gate::UNWRITTEN;
use crate::guarded::{Guarded, Placement};

const POISON: u32 = 0xdead_beef;

fn vector(columns: usize) -> Placement {
    Placement { offset: 5, pitch: columns }
}

/// Counts on the device, on top of `before`; ids lie in a matrix with two more columns of bad ids.
pub fn count(device: &Device, ids: &[i32], routes: usize, before: &[u32]) -> Vec<u32> {
    let (tokens, experts) = (ids.len() / routes, before.len());
    let place = Placement { offset: 1, pitch: routes + 2 };
    let ids = Guarded::new(device, ids, tokens, routes, place, i32::MIN);
    let mut counts = Guarded::new(device, before, 1, experts, vector(experts), POISON);
    let plan = ExpertLoad::plan(device, ExpertLoadSpec { tokens, routes, experts }).expect("plan");
    plan.run(device.stream().expect("stream"), ids.matrix(), counts.slice_mut())
        .unwrap_or_else(|e| panic!("{e}"));
    counts.into_checked(|c| c)
}

/// Moves the bias on the device; returns it with MaxVio.
pub fn update(device: &Device, counts: &[u32], bias: &[f32], speed: f32) -> (Vec<f32>, f32) {
    let experts = counts.len();
    let counts = Guarded::new(device, counts, 1, experts, vector(experts), POISON);
    let mut bias = Guarded::new(device, bias, 1, experts, vector(experts), UNWRITTEN);
    let mut max_vio = Guarded::unwritten(device, 1, 1, vector(1), UNWRITTEN);
    let plan = BiasUpdate::plan(device, BiasUpdateSpec { experts, speed }).expect("plan");
    let stream = device.stream().expect("stream");
    plan.run(stream, counts.slice(), bias.slice_mut(), max_vio.slice_mut()).unwrap_or_else(|e| panic!("{e}"));
    (bias.into_checked(f32::to_bits), max_vio.into_checked(f32::to_bits)[0])
}

/// Chains in which the kernel adds tokens: one per warp.
pub const CHAINS: usize = 8;

/// The loss of every sequence.
pub fn losses(device: &Device, scores: &[f32], spec: SequenceBalanceLossSpec) -> Vec<f32> {
    let tokens = spec.sequences * spec.length;
    let place = Placement { offset: 2, pitch: spec.experts + 3 };
    let scores = Guarded::new(device, scores, tokens, spec.experts, place, f32::NAN);
    let mut loss = Guarded::unwritten(device, 1, spec.sequences, vector(spec.sequences), UNWRITTEN);
    let plan = SequenceBalanceLoss::plan(device, spec).expect("plan");
    plan.run(device.stream().expect("stream"), scores.matrix(), loss.slice_mut())
        .unwrap_or_else(|e| panic!("{e}"));
    loss.into_checked(f32::to_bits)
}
