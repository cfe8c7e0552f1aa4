//! Cases of a mixture of experts: the map, what surrounds the GEMMs, and a whole layer.

pub mod batch;
pub mod combine;
pub mod expert_map;
pub mod gate_map;
pub mod gate_up_swiglu;
pub mod gather_quantize;
pub mod moe_layer;
mod routing;
pub mod swiglu_quantize;

use crate::planted::Fault;
use crate::quant::Rule;
use crate::trace::{Launch, Params, region};
use deepseek_kernels::bindings::UsedRows;
use std::mem::offset_of;
use std::num::NonZeroU32;

use deepseek_kernels::moe::{ExpertLayout, GateUpOrder};
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::table::gemm::GemmInstance;
use deepseek_kernels::table::moe::GATE_UP_INSTANCES;
use oracles::moe::SwigluModel;

use crate::case::{Cases, boxed};
use crate::deepseek_v3::{EXPERTS, HIDDEN, INTERMEDIATE, TOP_K, tokens};
use crate::families::Extent;
use crate::gemm::grouped_fp8_gemm::Assignment;
use crate::gemm::timed_grouped;
use crate::router::gate::GateCase;
use combine::CombineCase;
use expert_map::ExpertMapCase;
use gate_map::GateMapCase;
use gate_up_swiglu::GateUpSwigluCase;
use gather_quantize::GatherQuantizeCase;
use moe_layer::MoeLayerCase;
pub use routing::{ROUTINGS, Routing, strangers};
use swiglu_quantize::SwigluQuantizeCase;

/// One of each kind.
pub const LAYOUTS: [ExpertLayout; 3] = [
    ExpertLayout::Ragged,
    ExpertLayout::Aligned { alignment: NonZeroU32::new(16).expect("not 0") },
    ExpertLayout::Masked { max_rows: 9 },
];

/// The activation for the references.
fn swiglu_model(clamp: Option<f32>, order: GateUpOrder, rule: Rule) -> SwigluModel {
    SwigluModel { clamp, up_first: order == GateUpOrder::UpFirst, quantize: rule.model() }
}

fn order_title(order: GateUpOrder) -> &'static str {
    match order {
        GateUpOrder::GateFirst => "",
        GateUpOrder::UpFirst => ", up first",
    }
}

fn order_suffix(order: GateUpOrder) -> &'static str {
    match order {
        GateUpOrder::GateFirst => "",
        GateUpOrder::UpFirst => "_up_first",
    }
}

/// Every kernel in every layout, with ids of every kind.
pub fn smoke() -> Cases {
    let maps = LAYOUTS.map(|layout| {
        let map = ExpertMapCase::new((111, 5, 7)).laid_out(layout);
        ExpertMapCase { routing: Routing::Strangers, ..map }
    });
    let mut cases = boxed(maps);
    cases.extend(boxed([maps[0].with_local(3)]));
    cases.extend(boxed(maps.map(|map| GatherQuantizeCase::new(map, 256))));
    cases.extend(boxed(maps.map(|map| SwigluQuantizeCase {
        clamp: Some(6.0),
        weighted: true,
        ..SwigluQuantizeCase::new(map, 256)
    })));
    let gate_up = |&instance: &GemmInstance| {
        let m = instance.block_m as usize;
        let assignment = Assignment::ragged(&[m + 3, 0, 1, m - 1], 2);
        GateUpSwigluCase { clamp: Some(0.5), ..GateUpSwigluCase::new(assignment, (256, 640)) }.with(instance)
    };
    cases.extend(boxed(GATE_UP_INSTANCES.iter().map(gate_up)));
    let order = GateUpOrder::UpFirst;
    cases.extend(boxed([SwigluQuantizeCase { order, ..SwigluQuantizeCase::new(maps[0], 136) }]));
    cases.extend(boxed([GateUpSwigluCase { order, ..gate_up(&GATE_UP_INSTANCES[0]) }]));
    cases.extend(boxed(maps.map(|map| CombineCase::new(map, 136))));
    let (experts, top_k, groups, kept_groups) = (8, 2, 4, 2);
    let gate = GateSpec::new(5, 512, experts, top_k).groups(groups).kept_groups(kept_groups).route_scale(2.5);
    cases.extend(boxed([
        MoeLayerCase::new(gate, 256),
        MoeLayerCase { mask: true, local: Some(3), ..MoeLayerCase::new(gate, 128) },
    ]));
    let few = GateSpec::new(37, 64, 72, 6).groups(8).kept_groups(4).shared(1);
    let gate = GateCase { mask: true, ..GateCase::new(few) };
    cases.extend(boxed(LAYOUTS.map(|layout| GateMapCase::new(gate).laid_out(layout))));
    cases.extend(boxed([GateMapCase::new(GateCase { fixed: true, ..gate })]));
    cases.extend(boxed([GateMapCase::new(gate).with_local(25)]));
    cases
}

/// DeepSeek-V3's experts, or few and narrow ones like them.
pub fn timed(extent: Extent) -> Cases {
    let (tokens, hidden, experts, width): (&[_], _, _, _) = match extent {
        Extent::Full => (&[64, 512, 4096], HIDDEN, EXPERTS, INTERMEDIATE),
        Extent::Reduced => (&[3, 6], 512, 32, 128),
    };
    let of_tokens = |&tokens: &usize| {
        let map = ExpertMapCase { routing: Routing::Uniform, ..ExpertMapCase::new((tokens, TOP_K, experts)) };
        let gather = GatherQuantizeCase { repeated: true, ..GatherQuantizeCase::new(map, hidden) };
        let swiglu = SwigluQuantizeCase { repeated: true, ..SwigluQuantizeCase::new(map, width) };
        let combine = CombineCase::new(map, hidden);
        let combine = CombineCase { shared: false, residual: false, repeated: true, ..combine };
        let mut cases = boxed([map]);
        cases.extend(boxed([gather]));
        cases.extend(boxed([swiglu]));
        cases.extend(boxed([combine]));
        let gate = GateSpec::new(tokens, hidden, experts, 8).groups(8).kept_groups(4).route_scale(2.5);
        let choice = GateCase { bias: true, scores: false, ..GateCase::new(gate) };
        cases.extend(boxed([GateMapCase::new(choice)]));
        cases.extend(boxed([timed_layer(gate, width)]));
        cases
    };
    let mut cases: Cases = tokens.iter().flat_map(of_tokens).collect();
    let experts: &[_] = match extent {
        Extent::Full => &[(8, 4096), (32, 192), (32, 20)],
        Extent::Reduced => &[(4, 80)],
    };
    cases.extend(boxed(experts.iter().map(|&experts| timed_gate_up(experts, (width, hidden)))));
    cases
}

/// So many experts with 0.7 to 1.3 times so many rows, of this intermediate size and hidden one.
pub fn timed_gate_up(experts: (usize, usize), (width, hidden): (usize, usize)) -> GateUpSwigluCase {
    let gemm = timed_grouped(experts, (2 * width, hidden));
    GateUpSwigluCase { gemm, clamp: None, rule: Rule::POWER_OF_TWO, order: GateUpOrder::GateFirst }
}

/// A layer of experts with repeated weights, and nothing added to what they compute.
pub const fn timed_layer(gate: GateSpec, width: usize) -> MoeLayerCase {
    MoeLayerCase { shared: false, residual: false, repeated: true, ..MoeLayerCase::new(gate, width) }
}

/// What surrounds the experts' GEMMs, and all of it with fewer experts: what the emulator can compute in seconds.
pub fn layer(extent: Extent, seed: u64) -> Cases {
    let (few, width) = match extent {
        Extent::Full => (8, INTERMEDIATE),
        Extent::Reduced => (3, 256),
    };
    let gate = GateSpec::new(few, HIDDEN, 16, 4).groups(4).kept_groups(2).route_scale(2.5);
    let map = ExpertMapCase { seed, ..ExpertMapCase::new((tokens(extent), TOP_K, EXPERTS)) };
    let swiglu = SwigluQuantizeCase::new(map, INTERMEDIATE);
    let mut cases = boxed([map, map.with_local(EXPERTS / 8)]);
    let choice = GateCase { bias: true, seed, ..GateCase::new(GateSpec::deepseek_v3(tokens(extent))) };
    cases.extend(boxed([GateMapCase::new(choice)]));
    cases.extend(boxed([GatherQuantizeCase::new(map, HIDDEN)]));
    cases.extend(boxed([SwigluQuantizeCase { weighted: true, ..swiglu }]));
    cases.extend(boxed([CombineCase::new(map, HIDDEN)]));
    cases.extend(boxed([MoeLayerCase { seed, ..MoeLayerCase::new(gate, width) }]));
    cases
}

/// Rows and columns of the traced launches of what works row by row.
const TRACED_ROWS: u32 = 160;
const TRACED_K: u32 = 344;

/// The rows of eight experts, at `offset` in the parameters.
fn traced_rows(params: Params, offset: usize, max_rows: u32) -> Params {
    params
        .u64(offset + offset_of!(UsedRows, rows), region(0))
        .u32(offset + offset_of!(UsedRows, total), TRACED_ROWS)
        .u32(offset + offset_of!(UsedRows, experts), 8)
        .u32(offset + offset_of!(UsedRows, max_rows), max_rows)
}

/// Launches of every kernel, for the operand trace.
pub fn traced() -> Vec<Launch> {
    [
        expert_map::traced(),
        gate_map::traced(),
        gate_up_swiglu::traced(),
        gather_quantize::traced(),
        swiglu_quantize::traced(),
        combine::traced(),
    ]
    .concat()
}

/// Launches whose protocols are explored.
pub fn explored() -> Vec<Launch> {
    gate_up_swiglu::explored()
}

/// Faults in its kernels.
pub fn faults() -> Vec<Fault> {
    [
        expert_map::FAULTS,
        gate_map::FAULTS,
        gate_up_swiglu::FAULTS,
        gather_quantize::FAULTS,
        swiglu_quantize::FAULTS,
        combine::FAULTS,
    ]
    .concat()
}
