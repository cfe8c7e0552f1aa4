//! Of combinations.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::moe::combine::{CombineCase, CombineRun};
use check::moe::expert_map::ExpertMapCase;
use deepseek_kernels::moe::{Combine, CombineSpec};
use deepseek_kernels::{Matrix, MatrixMut};

use crate::{message, with};

#[test]
fn plans() {
    let device = emulated(0);
    let plan = |spec| message(Combine::plan(&device, spec));
    let spec = CombineSpec::new(2, 3, 16, 6);
    assert_eq!(plan(with(spec, |spec| spec.hidden = 12)), "hidden must be a multiple of 8, got 12");
    let huge = 1 << 31;
    assert_eq!(plan(with(spec, |spec| spec.rows = huge)), "rows must be at most 2147483647, got 2147483648");
    let many = "tokens must be at most 2147483647, got 2147483648";
    assert_eq!(plan(with(spec, |spec| spec.tokens = huge)), many);
}

fn combine() -> CombineRun {
    let problem = Arc::new(CombineCase::new(ExpertMapCase::new((2, 3, 4)), 16).problem());
    CombineRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    combine();
    y_of_fewer_rows: |args, spare| args.y = Matrix::new(&spare.halves, 5, 16)?
        => "expected y [rows, hidden] [6, 16], got [5, 16]";
    y_with_an_odd_pitch: |args, spare| args.y = Matrix::with_pitch(&spare.halves, 6, 16, 20)?
        => "y: pitch must be a multiple of 16 bytes, got 40";
    route_row_of_another_shape: |args, spare| args.route_row = Matrix::new(&spare.integers, 3, 2)?
        => "expected route_row [tokens, top_k] [2, 3], got [3, 2]";
    weights_of_another_shape: |args, spare| args.weights = Some(Matrix::new(&spare.floats, 2, 2)?)
        => "expected weights [tokens, top_k] [2, 3], got [2, 2]";
    shared_of_another_shape: |args, spare| args.shared = Some(Matrix::new(&spare.halves, 2, 8)?)
        => "expected shared [tokens, hidden] [2, 16], got [2, 8]";
    shared_with_an_odd_pitch: |args, spare|
        args.shared = Some(Matrix::with_pitch(&spare.halves, 2, 16, 18)?)
        => "shared: pitch must be a multiple of 16 bytes, got 36";
    residual_of_another_shape: |args, spare| args.residual = Some(Matrix::new(&spare.halves, 1, 16)?)
        => "expected residual [tokens, hidden] [2, 16], got [1, 16]";
    residual_with_an_odd_pitch: |args, spare|
        args.residual = Some(Matrix::with_pitch(&spare.halves, 2, 16, 17)?)
        => "residual: pitch must be a multiple of 16 bytes, got 34";
    out_of_another_shape: |args, spare| args.out = MatrixMut::new(&mut spare.halves, 2, 24)?
        => "expected out [tokens, hidden] [2, 16], got [2, 24]";
    out_with_an_odd_pitch: |args, spare| args.out = MatrixMut::with_pitch(&mut spare.halves, 2, 16, 19)?
        => "out: pitch must be a multiple of 16 bytes, got 38";
}
