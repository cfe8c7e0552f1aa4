//! Of the router.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::Memory;
use check::router::gate::{GateArgs, GateCase, GateFrom, GateRun};
use deepseek_kernels::router::{Gate, GateInput, GateSpec, GroupScore, Scoring};
use deepseek_kernels::{Matrix, MatrixMut};

use crate::message;

/// A router of eight experts for four tokens.
const GATE: GateSpec = GateSpec {
    tokens: 4,
    hidden: 64,
    experts: 8,
    top_k: 2,
    groups: 4,
    kept_groups: 2,
    shared: 1,
    scoring: Scoring::Sigmoid,
    group_score: GroupScore::TopTwoSum,
    normalize: true,
    route_scale: 1.0,
};

#[test]
fn routers_that_cannot_be() {
    let device = emulated(0);
    let cases = [
        (GateSpec { hidden: 65, ..GATE }, "hidden must be a multiple of 32, got 65"),
        (GateSpec { tokens: 1 << 31, ..GATE }, "tokens must be at most 2147483647, got 2147483648"),
        (GateSpec { hidden: 1 << 31, ..GATE }, "hidden must be at most 2147483647, got 2147483648"),
        (GateSpec { experts: 520, ..GATE }, "experts must be at most 512, got 520"),
        (GateSpec { experts: 99, groups: 33, ..GATE }, "groups must be at most 32, got 33"),
        (GateSpec { experts: 0, groups: 2, ..GATE }, "groups must be at most 1, got 2"),
        (GateSpec { experts: 9, ..GATE }, "experts must be a multiple of 4, got 9"),
        (GateSpec { groups: 0, ..GATE }, "groups must be at least 1, got 0"),
        (GateSpec { kept_groups: 5, ..GATE }, "kept groups must be at most 4, got 5"),
        (GateSpec { top_k: 33, ..GATE }, "routed experts of a token must be at most 32, got 33"),
        (GateSpec { top_k: 30, shared: 3, ..GATE }, "experts of a token must be at most 32, got 33"),
    ];
    for (spec, expected) in cases {
        assert_eq!(message(Gate::plan(&device, spec)), expected);
    }
}

fn route() -> GateRun {
    let case = GateCase { bias: true, mask: true, fixed: true, ..GateCase::new(GATE) };
    GateRun::new(Arc::new(case.problem()), &emulated(0), Memory::Plain).expect("operands")
}

fn input<'a, 'b>(args: &'b mut GateArgs<'a>) -> &'b mut GateInput<'a, f32> {
    let GateFrom::F32(input) = &mut args.from else { panic!("hidden states and a weight in FP32") };
    input
}

rejects! {
    route(), |plan, stream, args| args.run(plan, stream);
    hidden_with_a_row_too_many: |args, spare| input(&mut args).hidden = Matrix::new(&spare.halves, 5, 64)?
        => "expected hidden [tokens, hidden] [4, 64], got [5, 64]";
    weight_of_another_k: |args, spare| input(&mut args).weight = Matrix::new(&spare.floats, 8, 32)?
        => "expected weight [experts, hidden] [8, 64], got [8, 32]";
    hidden_with_an_odd_pitch: |args, spare|
        input(&mut args).hidden = Matrix::with_pitch(&spare.halves, 4, 64, 68)?
        => "hidden: pitch must be a multiple of 16 bytes, got 136";
    weight_with_an_odd_pitch: |args, spare|
        input(&mut args).weight = Matrix::with_pitch(&spare.floats, 8, 64, 66)?
        => "weight: pitch must be a multiple of 16 bytes, got 264";
    workspace_too_short: |args, spare| input(&mut args).workspace = (&mut spare.floats[..31]).into()
        => "[4, 8] with pitch 8 needs 32 elements, the slice has 31";
    fixed_ids_with_a_column_too_many: |args, spare|
        args.routing.fixed_ids = Some(Matrix::new(&spare.integers, 4, 3)?)
        => "expected fixed ids [tokens, top_k] [4, 2], got [4, 3]";
    bias_too_short: |args, spare| args.routing.bias = Some((&spare.floats[..7]).into())
        => "[1, 8] with pitch 8 needs 8 elements, the slice has 7";
    mask_too_short: |args, spare| args.routing.mask = Some((&spare.words[..3]).into())
        => "[1, 4] with pitch 4 needs 4 elements, the slice has 3";
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
    GateRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
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
