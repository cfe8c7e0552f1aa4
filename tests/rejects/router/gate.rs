//! Of the router.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::router::gate::{GateCase, GateFrom, GateRun, GateWeights};
use deepseek_kernels::router::{Gate, GateSpec};
use deepseek_kernels::{Matrix, MatrixMut, Vector};

use crate::{Change, message, with};

/// A router of eight experts for four tokens.
const GATE: GateSpec = GateSpec::new(4, 64, 8, 2).groups(4).kept_groups(2).shared(1);

#[test]
fn routers_that_cannot_be() {
    let device = emulated(0);
    let cases: [(Change<GateSpec>, &str); 19] = [
        (|spec| spec.hidden = 65, "hidden must be a multiple of 32, got 65"),
        (|spec| spec.tokens = 1 << 31, "tokens must be at most 2147483647, got 2147483648"),
        (|spec| spec.hidden = 1 << 31, "hidden must be at most 2147483647, got 2147483648"),
        (|spec| spec.experts = 1032, "experts must be at most 1024, got 1032"),
        (|spec| (spec.experts, spec.groups) = (99, 33), "groups must be at most 32, got 33"),
        (|spec| (spec.experts, spec.groups) = (1, 2), "groups must be at most 1, got 2"),
        (|spec| spec.experts = 0, "experts must be at least 1, got 0"),
        (|spec| spec.experts = 9, "experts must be a multiple of 4, got 9"),
        (|spec| spec.groups = 0, "groups must be at least 1, got 0"),
        (|spec| spec.kept_groups = 5, "kept groups must be at most 4, got 5"),
        (|spec| spec.kept_groups = 0, "kept groups must be at least 1, got 0"),
        (|spec| spec.top_k = 0, "routed experts of a token must be at least 1, got 0"),
        (|spec| spec.top_k = 5, "top_k, of the experts of the kept groups, must be at most 4, got 5"),
        (|spec| spec.route_scale = 0.0, "route_scale must be positive and at most 65536, got 0"),
        (|spec| spec.route_scale = -2.5, "route_scale must be positive and at most 65536, got -2.5"),
        (|spec| spec.route_scale = f32::NAN, "route_scale must be positive and at most 65536, got NaN"),
        (|spec| spec.route_scale = 65537.0, "route_scale must be positive and at most 65536, got 65537"),
        (|spec| spec.top_k = 33, "routed experts of a token must be at most 32, got 33"),
        (|spec| (spec.top_k, spec.shared) = (30, 3), "experts of a token must be at most 32, got 33"),
    ];
    for (change, expected) in cases {
        assert_eq!(message(Gate::plan(&device, with(GATE, change))), expected);
    }
}

fn route() -> GateRun {
    let case = GateCase { bias: true, mask: true, fixed: true, ..GateCase::new(GATE) };
    GateRun::new(Arc::new(case.problem()), &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

macro_rules! input {
    ($args:ident.$field:ident = $operand:expr) => {{
        let GateFrom::Hidden { $field, .. } = &mut $args.from else { panic!("hidden states and a weight") };
        *$field = $operand
    }};
}

rejects! {
    route(), |plan, stream, args| args.run(plan, stream);
    hidden_with_a_row_too_many: |args, spare| input!(args.hidden = Matrix::new(&spare.halves, 5, 64)?)
        => "expected hidden [tokens, hidden] [4, 64], got [5, 64]";
    weight_of_another_k: |args, spare| input!(args.weight = GateWeights::F32(Matrix::new(&spare.floats, 8, 32)?))
        => "expected weight [experts, hidden] [8, 64], got [8, 32]";
    hidden_with_an_odd_pitch: |args, spare|
        input!(args.hidden = Matrix::with_pitch(&spare.halves, 4, 64, 68)?)
        => "hidden: pitch must be a multiple of 16 bytes, got 136";
    weight_with_an_odd_pitch: |args, spare|
        input!(args.weight = GateWeights::F32(Matrix::with_pitch(&spare.floats, 8, 64, 66)?))
        => "weight: pitch must be a multiple of 16 bytes, got 264";
    // A logit of four tokens and eight experts.
    scratch_too_short: |args, spare| input!(args.scratch = (&mut spare.bytes[..127]).into())
        => "scratch must have at least 128 bytes, got 127";
    scratch_at_an_odd_address: |args, spare| input!(args.scratch = (&mut spare.bytes[4..]).into())
        => "scratch: address must be a multiple of 16 bytes, got 4";
    fixed_ids_with_a_column_too_many: |args, spare|
        args.routing.fixed_ids = Some(Matrix::new(&spare.integers, 4, 3)?.into())
        => "expected fixed_ids [tokens, top_k] [4, 2], got [4, 3]";
    wide_fixed_ids_with_a_row_missing: |args, spare|
        args.routing.fixed_ids = Some(Matrix::with_pitch(&spare.longs, 3, 2, 9)?.into())
        => "expected fixed_ids [tokens, top_k] [4, 2], got [3, 2]";
    unsigned_fixed_ids_in_a_row: |args, spare| args.routing.fixed_ids = Some(Vector::new(&spare.words, 8)?.into())
        => "expected fixed_ids [tokens, top_k] [4, 2], got [1, 8]";
    bias_too_short: |args, spare| args.routing.bias = Some((&spare.floats[..7]).into())
        => "expected bias [experts] [8], got [7]";
    mask_too_short: |args, spare| args.routing.mask = Some((&spare.words[..3]).into())
        => "expected mask [tokens] [4], got [3]";
    mask_of_a_token_too_many: |args, spare| args.routing.mask = Some((&spare.words[..5]).into())
        => "expected mask [tokens] [4], got [5]";
    ids_without_the_shared: |args, spare| args.routing.ids = MatrixMut::new(&mut spare.integers, 4, 2)?
        => "expected ids [tokens, top_k + shared] [4, 3], got [4, 2]";
    weights_with_a_row_too_many: |args, spare| args.routing.weights = MatrixMut::new(&mut spare.floats, 5, 3)?
        => "expected weights [tokens, top_k + shared] [4, 3], got [5, 3]";
    scores_of_fewer_experts: |args, spare|
        args.routing.scores = Some(MatrixMut::new(&mut spare.floats, 4, 7)?)
        => "expected scores [tokens, experts] [4, 8], got [4, 7]";
}

fn select() -> GateRun {
    let problem = Arc::new(GateCase::select(GATE).problem());
    GateRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    select(), |plan, stream, args| args.run(plan, stream);
    logits_of_fewer_experts: |args, spare| args.from = GateFrom::Logits(Matrix::new(&spare.floats, 4, 7)?)
        => "expected logits [tokens, experts] [4, 8], got [4, 7]";
    chosen_ids_without_the_shared: |args, spare|
        args.routing.ids = MatrixMut::new(&mut spare.integers, 4, 2)?
        => "expected ids [tokens, top_k + shared] [4, 3], got [4, 2]";
    chosen_weights_with_a_row_too_many: |args, spare|
        args.routing.weights = MatrixMut::new(&mut spare.floats, 5, 3)?
        => "expected weights [tokens, top_k + shared] [4, 3], got [5, 3]";
    chosen_scores_of_fewer_experts: |args, spare|
        args.routing.scores = Some(MatrixMut::new(&mut spare.floats, 4, 7)?)
        => "expected scores [tokens, experts] [4, 8], got [4, 7]";
}
