//! Bad operands, shapes and parameters of rotary embeddings.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::mla::rope::{RopeCase, RopeRun};
use deepseek_kernels::error::ViewProblem;
use deepseek_kernels::mla::{Heads, HeadsMut, Rope, RopePairs, RopeSpec, RopeTable, YarnRope};
use deepseek_kernels::{Error, Matrix, Vector, bf16};

use crate::{Change, message, with};

#[test]
fn plans_of_rotations() {
    let plan =
        |tokens, heads, positions| message(Rope::plan(&emulated(0), RopeSpec::new(tokens, heads, positions)));
    assert_eq!(plan(1 << 31, 0, 1), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(plan(0, 1 << 31, 1), "heads must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1 << 20, 1 << 11, 1), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1, 1, 1 << 31), "positions must be at most 2147483647, got 2147483648");
    let of = |columns, pairs| {
        message(Rope::plan(&emulated(0), RopeSpec::new(1, 1, 1).columns(columns).pairs(pairs)))
    };
    assert_eq!(of(0, RopePairs::Neighbours), "columns must be at least 1, got 0");
    assert_eq!(of(7, RopePairs::Neighbours), "columns must be a multiple of 2, got 7");
    assert_eq!(of(6, RopePairs::Halves), "columns must be a multiple of 4, got 6");
    assert_eq!(of(65538, RopePairs::Neighbours), "columns must be at most 65536, got 65538");
    let wide = RopeSpec::new(1 << 24, 128 - 1, 1).columns(65536);
    let expected = "CTAs of the rotation must be at most 2147483647, got 68182605824";
    assert_eq!(message(Rope::plan(&emulated(0), wide)), expected);
}

fn rotation() -> RopeRun {
    let problem = Arc::new(RopeCase::new(2, 3, 4).problem().expect("inputs"));
    RopeRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    rotation();
    x_with_too_many_tokens: |args, spare| args.x = Heads::new(&spare.halves, 3, 3, 192, 64)?
        => "expected x [tokens, heads] [2, 3], got [3, 3]";
    x_with_a_missing_head: |args, spare| args.x = Heads::new(&spare.halves, 2, 2, 192, 64)?
        => "expected x [tokens, heads] [2, 3], got [2, 2]";
    x_of_wider_heads: |args, spare| args.x = Heads::with_columns(&spare.halves, [2, 3, 72], 216, 72)?
        => "expected x [columns] of a head [64], got [72]";
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
    positions_with_one_too_many: |args, spare| args.positions = Vector::new(&spare.integers, 3)?.into()
        => "expected positions [tokens] [2], got [3]";
    wide_positions_with_one_missing: |args, spare| args.positions = Vector::new(&spare.longs, 1)?.into()
        => "expected positions [tokens] [2], got [1]";
    wide_positions_in_a_column: |args, spare| args.positions = Matrix::new(&spare.longs, 2, 1)?.into()
        => "expected positions [tokens] [2], got [2, 1]";
    table_with_a_row_too_many: |args, spare| args.table = Matrix::new(&spare.floats, 5, 64)?
        => "expected table [positions, columns] [4, 64], got [5, 64]";
    table_of_narrow_rows: |args, spare| args.table = Matrix::new(&spare.floats, 4, 32)?
        => "expected table [positions, columns] [4, 64], got [4, 32]";
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
    assert!(matches!(heads, Err(Error::View(ViewProblem::SliceTooShort { needed: u64::MAX, .. }))));
}

#[test]
fn parameters_of_tables() {
    let theta = |theta| message(RopeTable::plain(theta));
    assert_eq!(theta(1.0), "theta must be more than 1 and within FP32, got 1");
    assert_eq!(theta(f64::NAN), "theta must be more than 1 and within FP32, got NaN");
    assert_eq!(theta(f64::INFINITY), "theta must be more than 1 and within FP32, got inf");

    let cases: [(Change<YarnRope>, &str); 9] = [
        (|yarn| yarn.theta = -1.0, "theta must be more than 1 and within FP32, got -1"),
        (|yarn| yarn.factor = 0.5, "factor must be finite and at least 1, got 0.5"),
        (|yarn| yarn.factor = f64::NAN, "factor must be finite and at least 1, got NaN"),
        (|yarn| yarn.beta_slow = 0.0, "beta_slow must be finite and more than 0, got 0"),
        (|yarn| yarn.beta_fast = 0.5, "beta_fast must be finite and at least beta_slow, got 0.5"),
        (|yarn| yarn.beta_fast = f64::INFINITY, "beta_fast must be finite and at least beta_slow, got inf"),
        (|yarn| yarn.original_positions = 0, "original_positions must be more than 0, got 0"),
        (|yarn| yarn.mscale_all_dim = f64::NAN, "mscale_all_dim must be finite and at least 0, got NaN"),
        (|yarn| yarn.mscale = -0.1, "mscale must be finite and at least 0, got -0.1"),
    ];
    for (change, expected) in cases {
        assert_eq!(message(RopeTable::yarn(with(YarnRope::DEEPSEEK_V3, change))), expected);
    }
    let table = RopeTable::plain(10_000.0).expect("sensible");
    assert_eq!(message(table.cos_sin((1 << 24) + 1)), "positions must be at most 16777216, got 16777217");
}
