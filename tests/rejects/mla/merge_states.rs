//! Of merged states.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::mla::merge_states::{MergeStatesCase, MergeStatesRun};
use deepseek_kernels::mla::{MergeStates, MergeStatesSpec};
use deepseek_kernels::{Matrix, MatrixMut, bf16};

use crate::message;

#[test]
fn plans() {
    let merge =
        |tokens, heads| message(MergeStates::<bf16>::plan(&emulated(0), MergeStatesSpec::new(tokens, heads)));
    assert_eq!(merge(1 << 24, 128), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(merge(usize::MAX, 2), format!("tokens must be at most 2147483647, got {}", u64::MAX));
    assert_eq!(merge(0, 1 << 31), "heads must be at most 2147483647, got 2147483648");
}

fn merge() -> MergeStatesRun<bf16> {
    let problem = Arc::new(MergeStatesCase::new(3, 2).problem().expect("inputs"));
    MergeStatesRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    merge();
    first_o_with_missing_rows: |args, spare| args.parts[0].o = Matrix::new(&spare.halves, 3, 512)?
        => "expected o_0 [tokens * heads, columns] [6, 512], got [3, 512]";
    first_o_with_an_odd_pitch: |args, spare| args.parts[0].o = Matrix::with_pitch(&spare.halves, 6, 512, 516)?
        => "o_0: pitch must be a multiple of 16 bytes, got 1032";
    first_o_at_an_odd_address: |args, spare| args.parts[0].o = Matrix::new(&spare.halves[1..], 6, 512)?
        => "o_0: address must be a multiple of 16 bytes, got 2";
    first_lse_of_another_shape: |args, spare| args.parts[0].lse = Matrix::new(&spare.floats, 2, 3)?
        => "expected lse_0 [tokens, heads] [3, 2], got [2, 3]";
    second_o_with_missing_rows: |args, spare| args.parts[1].o = Matrix::new(&spare.halves, 3, 512)?
        => "expected o_1 [tokens * heads, columns] [6, 512], got [3, 512]";
    second_o_with_an_odd_pitch: |args, spare| args.parts[1].o = Matrix::with_pitch(&spare.halves, 6, 512, 516)?
        => "o_1: pitch must be a multiple of 16 bytes, got 1032";
    second_o_at_an_odd_address: |args, spare| args.parts[1].o = Matrix::new(&spare.halves[1..], 6, 512)?
        => "o_1: address must be a multiple of 16 bytes, got 2";
    second_lse_of_another_shape: |args, spare| args.parts[1].lse = Matrix::new(&spare.floats, 2, 3)?
        => "expected lse_1 [tokens, heads] [3, 2], got [2, 3]";
    out_with_missing_rows: |args, spare| args.out.o = MatrixMut::new(&mut spare.halves, 3, 512)?
        => "expected out [tokens * heads, columns] [6, 512], got [3, 512]";
    out_with_an_odd_pitch: |args, spare| args.out.o = MatrixMut::with_pitch(&mut spare.halves, 6, 512, 516)?
        => "out: pitch must be a multiple of 16 bytes, got 1032";
    out_at_an_odd_address: |args, spare| args.out.o = MatrixMut::new(&mut spare.halves[1..], 6, 512)?
        => "out: address must be a multiple of 16 bytes, got 2";
    lse_of_another_shape: |args, spare| args.out.lse = MatrixMut::new(&mut spare.floats, 2, 3)?
        => "expected out_lse [tokens, heads] [3, 2], got [2, 3]";
}
