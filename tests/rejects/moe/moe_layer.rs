//! Of whole layers.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::Memory;
use check::moe::moe_layer::{MoeLayerCase, MoeLayerRun};
use deepseek_kernels::moe::{MoeLayer, MoeLayerSpec};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Matrix, MatrixMut};

use crate::message;

fn gate() -> GateSpec {
    let (experts, top_k, groups, kept_groups) = (4, 2, 2, 1);
    GateSpec { hidden: 128, experts, top_k, groups, kept_groups, ..GateSpec::deepseek_v3(1) }
}

#[test]
fn plans() {
    let plan = |spec| message(MoeLayer::plan(&emulated(0), spec));
    let format = ScaleFormat::PowerOfTwo;
    let spec = MoeLayerSpec { gate: gate(), intermediate: 128, clamp: None, format };
    let odd = MoeLayerSpec { intermediate: 100, ..spec };
    assert_eq!(plan(odd), "intermediate must be a multiple of 128, got 100");
    let shared = MoeLayerSpec { gate: GateSpec { shared: 1, ..gate() }, ..spec };
    assert_eq!(plan(shared), "shared routes of a layer's gate must be 0, got 1");
}

fn layer() -> MoeLayerRun {
    let problem = Arc::new(MoeLayerCase::new(gate(), 128).problem().expect("inputs"));
    MoeLayerRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
}

// Whichever step finds it, and whatever was enqueued before: `out` is not written, and the layer goes on working.
rejects! {
    layer();
    hidden_with_a_row_too_many: |args, spare| args.hidden = Matrix::new(&spare.halves, 2, 128)?
        => "expected hidden [tokens, hidden] [1, 128], got [2, 128]";
    gate_of_fewer_experts: |args, spare| args.gate = Matrix::new(&spare.floats, 3, 128)?
        => "expected weight [experts, hidden] [4, 128], got [3, 128]";
    weights_of_fewer_experts: |args, spare| args.down.weight = Matrix::new(&spare.codes, 384, 128)?
        => "expected b [experts * n, k] [512, 128], got [384, 128]";
    shared_with_a_row_too_many: |args, spare| args.shared = Some(Matrix::new(&spare.halves, 2, 128)?)
        => "expected shared [tokens, hidden] [1, 128], got [2, 128]";
    out_of_another_shape: |args, spare| args.out = MatrixMut::new(&mut spare.halves, 1, 256)?
        => "expected out [tokens, hidden] [1, 128], got [1, 256]";
}
