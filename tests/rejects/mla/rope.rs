//! Bad operands, shapes and parameters of rotary embeddings.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::Memory;
use check::mla::rope::{RopeCase, RopeRun};
use deepseek_kernels::mla::{Heads, HeadsMut, Rope, RopeSpec, RopeTable, YarnRope};
use deepseek_kernels::{Error, Matrix, bf16};

use crate::message;

#[test]
fn plans_of_rotations() {
    let plan =
        |tokens, heads, positions| message(Rope::plan(&emulated(0), RopeSpec { tokens, heads, positions }));
    assert_eq!(plan(1 << 31, 0, 1), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(plan(0, 1 << 31, 1), "heads must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1 << 20, 1 << 11, 1), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1, 1, 1 << 31), "positions must be at most 2147483647, got 2147483648");
}

fn rotation() -> RopeRun {
    let problem = Arc::new(RopeCase::new(2, 3, 4).problem().expect("inputs"));
    RopeRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
}

rejects! {
    rotation();
    x_with_too_many_tokens: |args, spare| args.x = Heads::new(&spare.halves, 3, 3, 192, 64)?
        => "expected x [tokens, heads] [2, 3], got [3, 3]";
    x_with_a_missing_head: |args, spare| args.x = Heads::new(&spare.halves, 2, 2, 192, 64)?
        => "expected x [tokens, heads] [2, 3], got [2, 2]";
    x_with_overlapping_heads: |args, spare| args.x = Heads::new(&spare.halves, 2, 3, 192, 63)?
        => "pitch must be at least the number of columns: expected >= 64, got 63";
    x_with_overlapping_tokens: |args, spare| args.x = Heads::new(&spare.halves, 2, 3, 191, 64)?
        => "pitch must be at least the number of columns: expected >= 192, got 191";
    x_with_an_odd_pitch: |args, spare| args.x = Heads::new(&spare.halves, 2, 3, 196, 64)?
        => "x: pitch must be a multiple of 16 bytes, got 392";
    x_with_an_odd_stride: |args, spare| args.x = Heads::new(&spare.halves, 2, 3, 200, 68)?
        => "x: stride of heads must be a multiple of 16 bytes, got 136";
    x_at_an_odd_address: |args, spare| args.x = Heads::new(&spare.halves[4..], 2, 3, 192, 64)?
        => "x: address must be a multiple of 16 bytes, got 8";
    positions_with_one_too_many: |args, spare| args.positions = Matrix::new(&spare.integers, 1, 3)?
        => "expected positions [1, tokens] [1, 2], got [1, 3]";
    table_with_a_row_too_many: |args, spare| args.table = Matrix::new(&spare.floats, 5, 64)?
        => "expected table [positions, 64] [4, 64], got [5, 64]";
    table_of_narrow_rows: |args, spare| args.table = Matrix::new(&spare.floats, 4, 32)?
        => "expected table [positions, 64] [4, 64], got [4, 32]";
    table_with_an_odd_pitch: |args, spare| args.table = Matrix::with_pitch(&spare.floats, 4, 64, 66)?
        => "table: pitch must be a multiple of 16 bytes, got 264";
    table_at_an_odd_address: |args, spare| args.table = Matrix::new(&spare.floats[2..], 4, 64)?
        => "table: address must be a multiple of 16 bytes, got 8";
    out_with_a_missing_token: |args, spare| args.out = HeadsMut::new(&mut spare.halves, 1, 3, 576, 192)?
        => "expected out [tokens, heads] [2, 3], got [1, 3]";
    out_with_an_odd_pitch: |args, spare| args.out = HeadsMut::new(&mut spare.halves, 2, 3, 580, 192)?
        => "out: pitch must be a multiple of 16 bytes, got 1160";
    out_with_an_odd_stride: |args, spare| args.out = HeadsMut::new(&mut spare.halves, 2, 3, 576, 193)?
        => "out: stride of heads must be a multiple of 16 bytes, got 386";
    out_at_an_odd_address: |args, spare| args.out = HeadsMut::new(&mut spare.halves[129..], 2, 3, 576, 192)?
        => "out: address must be a multiple of 16 bytes, got 2";
    out_longer_than_its_memory: |args, spare| args.out = HeadsMut::new(&mut spare.halves[..1920], 2, 3, 2000, 192)?
        => "[2, 448] with pitch 2000 needs 2448 elements, the slice has 1920";
}

#[test]
fn heads_beyond_the_address_space_are_refused_not_wrapped() {
    let data = [bf16::ZERO; 64];
    let heads = Heads::new(&data[..], 1, usize::MAX, usize::MAX, usize::MAX);
    assert!(matches!(heads, Err(Error::SliceTooShort { needed: u64::MAX, .. })));
}

#[test]
fn parameters_of_tables() {
    let theta = |theta| message(RopeTable::plain(theta));
    assert_eq!(theta(1.0), "theta must be more than 1 and within FP32, got 1");
    assert_eq!(theta(f64::NAN), "theta must be more than 1 and within FP32, got NaN");
    assert_eq!(theta(f64::INFINITY), "theta must be more than 1 and within FP32, got inf");

    const V3: YarnRope = YarnRope::DEEPSEEK_V3;
    for (bad, expected) in [
        (YarnRope { theta: -1.0, ..V3 }, "theta must be more than 1 and within FP32, got -1"),
        (YarnRope { factor: 0.5, ..V3 }, "factor must be finite and at least 1, got 0.5"),
        (YarnRope { factor: f64::NAN, ..V3 }, "factor must be finite and at least 1, got NaN"),
        (YarnRope { beta_slow: 0.0, ..V3 }, "beta_slow must be finite and more than 0, got 0"),
        (YarnRope { beta_fast: 0.5, ..V3 }, "beta_fast must be finite and at least beta_slow, got 0.5"),
        (
            YarnRope { beta_fast: f64::INFINITY, ..V3 },
            "beta_fast must be finite and at least beta_slow, got inf",
        ),
        (YarnRope { original_positions: 0, ..V3 }, "original_positions must be more than 0, got 0"),
        (YarnRope { mscale: -0.1, ..V3 }, "mscale must be finite and at least 0, got -0.1"),
    ] {
        assert_eq!(message(RopeTable::yarn(bad)), expected);
    }
    let table = RopeTable::plain(10_000.0).expect("sensible");
    assert_eq!(message(table.cos_sin((1 << 24) + 1)), "positions must be at most 16777216, got 16777217");
}
