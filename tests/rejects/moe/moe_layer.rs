//! Of whole layers.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::moe::moe_layer::{MoeLayerCase, MoeLayerRun};
use deepseek_kernels::moe::{MoeLayer, MoeLayerSpec};
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Matrix, MatrixMut, Vector};

use crate::message;

const GATE: GateSpec = GateSpec::new(1, 128, 4, 2).groups(2).kept_groups(1).route_scale(2.5);

#[test]
fn plans() {
    let plan = |spec| message(MoeLayer::plan(&emulated(0), spec));
    assert_eq!(plan(MoeLayerSpec::new(GATE, 100)), "intermediate must be a multiple of 16, got 100");
    assert_eq!(
        plan(MoeLayerSpec::new(GATE.shared(1), 128)),
        "shared routes of a layer's gate must be 0, got 1"
    );
    assert_eq!(
        plan(MoeLayerSpec::new(GATE, 128).local_experts(Some(5))),
        "local_experts, of the experts, must be at most 4, got 5"
    );
}

fn layer() -> MoeLayerRun {
    let problem = Arc::new(MoeLayerCase::new(GATE, 128).problem().expect("inputs"));
    MoeLayerRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    layer();
    hidden_with_a_row_too_many: |args, spare| args.hidden = Matrix::new(&spare.halves, 2, 128)?
        => "expected hidden [tokens, hidden] [1, 128], got [2, 128]";
    gate_of_fewer_experts: |args, spare| args.gate = Matrix::new(&spare.floats, 3, 128)?
        => "expected gate [experts, hidden] [4, 128], got [3, 128]";
    bias_of_fewer_experts: |args, spare| args.bias = Some(Vector::new(&spare.floats, 3)?)
        => "expected bias [experts] [4], got [3]";
    mask_of_another_token: |args, spare| args.mask = Some(Vector::new(&spare.words, 2)?)
        => "expected mask [tokens] [1], got [2]";
    no_scratch: |args, spare| args.scratch = (&mut spare.bytes[..0]).into()
        => "scratch must have at least 1376 bytes, got 0";
    scratch_too_short: |args, spare| args.scratch = (&mut spare.bytes[..1375]).into()
        => "scratch must have at least 1376 bytes, got 1375";
    scratch_at_an_odd_address: |args, spare| args.scratch = (&mut spare.bytes[8..]).into()
        => "scratch: address must be a multiple of 16 bytes, got 8";
    weights_of_fewer_experts: |args, spare| args.down.weight = Matrix::new(&spare.codes, 384, 128)?
        => "expected down.weight [experts * hidden, intermediate] [512, 128], got [384, 128]";
    shared_with_a_row_too_many: |args, spare| args.shared = Some(Matrix::new(&spare.halves, 2, 128)?)
        => "expected shared [tokens, hidden] [1, 128], got [2, 128]";
    out_of_another_shape: |args, spare| args.out = MatrixMut::new(&mut spare.halves, 1, 256)?
        => "expected out [tokens, hidden] [1, 128], got [1, 256]";
}

fn local() -> MoeLayerRun {
    let problem =
        Arc::new(MoeLayerCase { local: Some(3), ..MoeLayerCase::new(GATE, 128) }.problem().expect("inputs"));
    MoeLayerRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    local();
    no_local_ids: |args, _spare| args.local_ids = None => "local_ids: expected those of the local experts, got none";
    local_ids_of_more_experts: |args, spare| args.local_ids = Some(Vector::new(&spare.longs, 5)?.into())
        => "expected local_ids [experts] [4], got [5]";
    weights_of_all_experts: |args, spare| args.down.weight = Matrix::new(&spare.codes, 512, 128)?
        => "expected down.weight [experts * hidden, intermediate] [384, 128], got [512, 128]";
}
