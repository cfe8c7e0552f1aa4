//! Bad operands, shapes and parameters of rotary embeddings.

use check::devices::emulated;
use deepseek_kernels::mla::{Heads, HeadsMut, Rope, RopeArgs, RopeSpec, RopeTable, YarnRope};
use deepseek_kernels::{Error, Matrix, Stream, bf16};

use crate::{Size, message};

#[test]
fn plans_of_rotations() {
    let plan =
        |tokens, heads, positions| message(Rope::plan(&emulated(0), RopeSpec { tokens, heads, positions }));
    assert_eq!(plan(1 << 31, 0, 1), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(plan(0, 1 << 31, 1), "heads must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1 << 20, 1 << 11, 1), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1, 1, 1 << 31), "positions must be at most 2147483647, got 2147483648");
}

/// What a test may get wrong of a rotation of two tokens of three heads by a table of four positions.
#[derive(Clone, Copy)]
struct Rotation {
    /// Tokens, heads, token stride, head stride of x and of out; element where they start.
    x: [usize; 5],
    out: [usize; 5],
    positions: Size,
    table: Size,
    table_offset: usize,
}

const GOOD: Rotation = Rotation {
    x: [2, 3, 192, 64, 0],
    out: [2, 3, 576, 192, 128],
    positions: (1, 2, 2),
    table: (4, 64, 64),
    table_offset: 0,
};

impl Rotation {
    fn run(self) -> Result<(), Error> {
        let plan = Rope::plan(&emulated(0), RopeSpec { tokens: 2, heads: 3, positions: 4 }).expect("plan");
        let (x, mut out) = (vec![bf16::ZERO; 2048], vec![bf16::ZERO; 2048]);
        let (positions, table) = ([0; 8], vec![0.0; 1024]);
        let (rows, columns, pitch) = self.positions;
        let [tokens, heads, token_stride, head_stride, offset] = self.x;
        let x = Heads::new(&x[offset..], tokens, heads, token_stride, head_stride)?;
        let [tokens, heads, token_stride, head_stride, offset] = self.out;
        let out = HeadsMut::new(&mut out[offset..], tokens, heads, token_stride, head_stride)?;
        let positions = Matrix::with_pitch(&positions[..], rows, columns, pitch)?;
        let (rows, columns, pitch) = self.table;
        let table = Matrix::with_pitch(&table[self.table_offset..], rows, columns, pitch)?;
        plan.run(Stream::Emulated, RopeArgs { x, positions, table, out })
    }
}

#[test]
fn operands_of_rotations() {
    assert_eq!(GOOD.run(), Ok(()));
    for (bad, expected) in [
        (Rotation { x: [3, 3, 192, 64, 0], ..GOOD }, "expected x [tokens, heads] [2, 3], got [3, 3]"),
        (Rotation { x: [2, 2, 192, 64, 0], ..GOOD }, "expected x [tokens, heads] [2, 3], got [2, 2]"),
        (
            Rotation { x: [2, 3, 192, 63, 0], ..GOOD },
            "pitch must be at least the number of columns: expected >= 64, got 63",
        ),
        (
            Rotation { x: [2, 3, 191, 64, 0], ..GOOD },
            "pitch must be at least the number of columns: expected >= 192, got 191",
        ),
        (Rotation { x: [2, 3, 196, 64, 0], ..GOOD }, "x: pitch must be a multiple of 16 bytes, got 392"),
        (
            Rotation { x: [2, 3, 200, 68, 0], ..GOOD },
            "x: stride of heads must be a multiple of 16 bytes, got 136",
        ),
        (Rotation { x: [2, 3, 192, 64, 4], ..GOOD }, "x: address must be a multiple of 16 bytes, got 8"),
        (Rotation { positions: (1, 3, 3), ..GOOD }, "expected positions [1, tokens] [1, 2], got [1, 3]"),
        (Rotation { table: (5, 64, 64), ..GOOD }, "expected table [positions, 64] [4, 64], got [5, 64]"),
        (Rotation { table: (4, 32, 64), ..GOOD }, "expected table [positions, 64] [4, 64], got [4, 32]"),
        (Rotation { table: (4, 64, 66), ..GOOD }, "table: pitch must be a multiple of 16 bytes, got 264"),
        (Rotation { table_offset: 2, ..GOOD }, "table: address must be a multiple of 16 bytes, got 8"),
        (Rotation { out: [1, 3, 576, 192, 128], ..GOOD }, "expected out [tokens, heads] [2, 3], got [1, 3]"),
        (
            Rotation { out: [2, 3, 580, 192, 128], ..GOOD },
            "out: pitch must be a multiple of 16 bytes, got 1160",
        ),
        (
            Rotation { out: [2, 3, 576, 193, 128], ..GOOD },
            "out: stride of heads must be a multiple of 16 bytes, got 386",
        ),
        (
            Rotation { out: [2, 3, 576, 192, 129], ..GOOD },
            "out: address must be a multiple of 16 bytes, got 2",
        ),
        (
            Rotation { out: [2, 3, 2000, 192, 128], ..GOOD },
            "[2, 448] with pitch 2000 needs 2448 elements, the slice has 1920",
        ),
    ] {
        assert_eq!(message(bad.run()), expected);
    }
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
