//! The launches of gate and map at once that are traced.

use std::mem::offset_of;

use deepseek_kernels::bindings::GateMapParams;
use deepseek_kernels::table::moe::{GATE_MAP, GATE_MAP_CLUSTER};

use crate::moe::expert_map::{traced_local, traced_map};
use crate::router::gate::{FIXED, GROUPED, SOFTMAX, Selection, traced_selection};
use crate::trace::{Launch, Params, fixed};

/// Two tokens a CTA, one in the last but one, none in the last.
const TOKENS: u32 = 13;

/// What the operand trace launches: ragged, aligned, masked; then experts of which not all are here.
pub fn traced() -> Vec<Launch> {
    let launches = [(GROUPED, (1, u32::MAX)), (SOFTMAX, (64, u32::MAX)), (FIXED, (0, 2))];
    let all = launches.map(|(selection, layout)| launch(params(&selection, layout)));
    let local = traced_local(params(&GROUPED, (1, u32::MAX)), offset_of!(GateMapParams, map), 90);
    all.into_iter().chain([launch(local)]).collect()
}

fn launch(params: Params) -> Launch {
    fixed(&GATE_MAP, GATE_MAP_CLUSTER, params)
}

fn params(selection: &Selection, layout: (u32, u32)) -> Params {
    let [top_k, shared] = selection.routes;
    let (gate, map) = (offset_of!(GateMapParams, gate), offset_of!(GateMapParams, map));
    let params = traced_selection(Params::of::<GateMapParams>(), gate, selection, TOKENS);
    let (experts, routes) = (selection.experts + shared, [TOKENS, top_k + shared]);
    traced_map(params, map, experts, routes, GATE_MAP_CLUSTER, layout)
}
