//! Bad input of the append to the KV cache and of the rotation: an error that says what was expected and what came.

use check::devices::emulated;
use deepseek_kernels::mla::{
    Heads, HeadsMut, KvAppend, KvAppendArgs, KvAppendSpec, KvCacheMut, KvFormat, Rope, RopeArgs, RopeSpec,
    RopeTable, YarnRope,
};
use deepseek_kernels::{Error, Matrix, MatrixMut, Stream, bf16};

use super::message;

/// Rows, columns, pitch.
type Size = (usize, usize, usize);

#[test]
fn plans_of_appends() {
    let plan =
        |tokens, rows| message(KvAppend::plan(&emulated(0), KvAppendSpec::new(tokens, rows, KvFormat::Fp8)));
    assert_eq!(plan(1 << 31, 1), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1, 1 << 31), "rows must be at most 2147483647, got 2147483648");
}

/// Appends two tokens to a cache of three rows, with `sizes` of latent, k_pe, slots; operands start `offsets` elements
/// into their memory, that of latent, k_pe, cache.
fn append(
    format: KvFormat,
    sizes: [Size; 3],
    cache: KvCacheMut<'_>,
    offsets: [usize; 2],
) -> Result<(), Error> {
    let plan = KvAppend::plan(&emulated(0), KvAppendSpec::new(2, 3, format)).expect("plan");
    let memory = vec![bf16::ZERO; 2048];
    let slots = [-1; 8];
    let matrix = |(rows, columns, pitch): Size, offset: usize| {
        Matrix::with_pitch(&memory[offset..], rows, columns, pitch).expect("view")
    };
    let (rows, columns, pitch) = sizes[2];
    plan.run(
        Stream::Emulated,
        KvAppendArgs {
            latent: matrix(sizes[0], offsets[0]),
            k_pe: matrix(sizes[1], offsets[1]),
            slots: Matrix::with_pitch(&slots[..], rows, columns, pitch).expect("view"),
            cache,
        },
    )
}

const SIZES: [Size; 3] = [(2, 512, 512), (2, 64, 64), (1, 2, 2)];

#[test]
fn operands_of_appends() {
    let run = |sizes, offsets| {
        let mut cache = vec![0_u8; 3 * 656];
        append(
            KvFormat::Fp8,
            sizes,
            KvCacheMut::Fp8(MatrixMut::new(&mut cache, 3, 656).expect("view")),
            offsets,
        )
    };
    assert_eq!(run(SIZES, [0, 0]), Ok(()));
    for (operand, size, expected) in [
        (0, (3, 512, 512), "expected latent [tokens, 512] [2, 512], got [3, 512]"),
        (0, (2, 576, 576), "expected latent [tokens, 512] [2, 512], got [2, 576]"),
        (0, (2, 512, 516), "latent: pitch must be a multiple of 16 bytes, got 1032"),
        (1, (2, 32, 64), "expected k_pe [tokens, 64] [2, 64], got [2, 32]"),
        (1, (2, 64, 65), "k_pe: pitch must be a multiple of 16 bytes, got 130"),
        (2, (1, 3, 3), "expected slots [1, tokens] [1, 2], got [1, 3]"),
        (2, (2, 1, 1), "expected slots [1, tokens] [1, 2], got [2, 1]"),
    ] {
        let mut sizes = SIZES;
        sizes[operand] = size;
        assert_eq!(message(run(sizes, [0, 0])), expected);
    }
    assert_eq!(message(run(SIZES, [1, 0])), "latent: address must be a multiple of 16 bytes, got 2");
    assert_eq!(message(run(SIZES, [0, 3])), "k_pe: address must be a multiple of 16 bytes, got 6");
}

#[test]
fn caches_of_appends() {
    let fp8 = |(rows, columns, pitch): Size, offset: usize| {
        let mut memory = vec![0_u8; 4096];
        let view = MatrixMut::with_pitch(&mut memory[offset..], rows, columns, pitch).expect("view");
        append(KvFormat::Fp8, SIZES, KvCacheMut::Fp8(view), [0, 0])
    };
    assert_eq!(fp8((3, 656, 672), 16), Ok(()));
    assert_eq!(
        message(fp8((4, 656, 656), 0)),
        "expected cache [pages * page_size, 656] [3, 656], got [4, 656]"
    );
    assert_eq!(
        message(fp8((3, 576, 656), 0)),
        "expected cache [pages * page_size, 656] [3, 656], got [3, 576]"
    );
    assert_eq!(message(fp8((3, 656, 664), 0)), "cache: pitch must be a multiple of 16 bytes, got 664");
    assert_eq!(message(fp8((3, 656, 656), 8)), "cache: address must be a multiple of 16 bytes, got 8");

    let bf16 = |format, (rows, columns, pitch): Size| {
        let mut memory = vec![bf16::ZERO; 4096];
        let view = MatrixMut::with_pitch(&mut memory, rows, columns, pitch).expect("view");
        append(format, SIZES, KvCacheMut::Bf16(view), [0, 0])
    };
    assert_eq!(bf16(KvFormat::Bf16, (3, 576, 576)), Ok(()));
    assert_eq!(
        message(bf16(KvFormat::Bf16, (3, 512, 576))),
        "expected cache [pages * page_size, 576] [3, 576], got [3, 512]"
    );
    assert_eq!(
        message(bf16(KvFormat::Bf16, (3, 576, 580))),
        "cache: pitch must be a multiple of 16 bytes, got 1160"
    );
    // As many columns as the plan's format has do not make it that format.
    assert_eq!(message(bf16(KvFormat::Fp8, (3, 656, 656))), "expected a cache of FP8 rows, got BF16 rows");
}

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
