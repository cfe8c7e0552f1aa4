//! Of gate and map, in one launch and apart.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::moe::gate_map::{GateMapCase, GateMapRun};
use check::router::gate::{GateCase, GateFrom, GateWeights};
use deepseek_kernels::moe::{ExpertLayout, GateMap, GateMapSpec};
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::table::moe::GATE_MAP_TOKENS;
use deepseek_kernels::{Matrix, MatrixMut, VectorMut};

use crate::{message, with};

const FEW: usize = 4;
const MANY: usize = GATE_MAP_TOKENS as usize + 1;

const fn gate(tokens: usize) -> GateSpec {
    GateSpec::new(tokens, 64, 8, 2).groups(4).kept_groups(2).shared(1)
}

#[test]
fn plans() {
    let plan = |spec| message(GateMap::plan(&emulated(0), spec));
    let spec = GateMapSpec::new(gate(FEW));
    let odd = with(gate(FEW), |gate| gate.hidden = 65);
    assert_eq!(plan(GateMapSpec::new(odd)), "hidden must be a multiple of 32, got 65");
    // Shared experts have rows too.
    let full = with(gate(FEW), |gate| gate.experts = 1024);
    assert_eq!(plan(GateMapSpec::new(full)), "experts must be at most 1024, got 1025");
    let roomy = spec.layout(ExpertLayout::Masked { max_rows: 1 << 30 });
    assert_eq!(plan(roomy), "rows must be at most 2147483647, got 9663676416");
}

fn run(tokens: usize) -> GateMapRun {
    let problem = Arc::new(GateMapCase::new(GateCase::new(gate(tokens))).problem());
    GateMapRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

mod fused {
    use super::*;

    rejects! {
        run(FEW), |plan, stream, args| args.run(plan, stream);
        weight_of_another_k: |args, spare| {
            let GateFrom::Hidden { weight, .. } = &mut args.gate.from else { panic!("a weight") };
            *weight = GateWeights::F32(Matrix::new(&spare.floats, 8, 32)?)
        } => "expected weight [experts, hidden] [8, 64], got [8, 32]";
        ids_without_the_shared: |args, spare|
            args.gate.routing.ids = MatrixMut::new(&mut spare.integers, FEW, 2)?
            => "expected ids [tokens, top_k + shared] [4, 3], got [4, 2]";
        rows_without_the_shared: |args, spare|
            args.mapping.row_route = VectorMut::new(&mut spare.integers, 8)?
            => "expected row_route [rows] [12], got [8]";
        route_row_without_the_shared: |args, spare|
            args.mapping.route_row = MatrixMut::new(&mut spare.integers, FEW, 2)?
            => "expected route_row [tokens, top_k] [4, 3], got [4, 2]";
        demand_without_the_shared: |args, spare|
            args.mapping.demand = VectorMut::new(&mut spare.integers, 9)?
            => "expected demand [experts + 1] [10], got [9]";
        // A logit of four tokens and eight experts; eight counts of nine experts and of other ids.
        scratch_too_short: |args, spare| {
            let GateFrom::Hidden { scratch, .. } = &mut args.gate.from else { panic!("a scratch") };
            *scratch = (&mut spare.bytes[..447]).into()
        } => "scratch must have at least 448 bytes, got 447";
        scratch_at_an_odd_address: |args, spare| {
            let GateFrom::Hidden { scratch, .. } = &mut args.gate.from else { panic!("a scratch") };
            *scratch = (&mut spare.bytes[4..]).into()
        } => "scratch: address must be a multiple of 16 bytes, got 4";
    }
}

/// What the last of the launches minds is found before the first.
mod apart {
    use super::*;

    rejects! {
        run(MANY), |plan, stream, args| args.run(plan, stream);
        scores_of_fewer_experts: |args, spare|
            args.gate.routing.scores = Some(MatrixMut::new(&mut spare.floats, MANY, 7)?)
            => "expected scores [tokens, experts] [129, 8], got [129, 7]";
        offsets_without_the_shared: |args, spare|
            args.mapping.offsets = VectorMut::new(&mut spare.integers, 9)?
            => "expected offsets [experts + 1] [10], got [9]";
        counts_without_the_shared: |args, spare|
            args.mapping.counts = VectorMut::new(&mut spare.integers, 8)?
            => "expected counts [experts] [9], got [8]";
    }
}
