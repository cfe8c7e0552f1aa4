//! Bad operands and shapes of appends to the KV cache.

use check::devices::emulated;
use deepseek_kernels::mla::{KvAppend, KvAppendArgs, KvAppendSpec, KvCacheMut, KvFormat};
use deepseek_kernels::{Error, Matrix, MatrixMut, Stream, bf16};

use crate::{Size, message};

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
