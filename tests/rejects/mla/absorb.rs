//! Bad input of the operations around MLA's attention: an error that says what was expected and what came.

use check::devices::emulated;
use deepseek_kernels::mla::{
    AbsorbOutputArgs, AbsorbQueryArgs, AttentionState, AttentionStateMut, MergeStates, MergeStatesSpec,
    MlaAbsorb, MlaAbsorbSpec,
};
use deepseek_kernels::{Error, Matrix, MatrixMut, Stream, bf16};

use crate::message;

/// A matrix of zeros that a test may get wrong: rows, columns, pitch, elements before it.
type Size = (usize, usize, usize, usize);

const fn dense(rows: usize, columns: usize) -> Size {
    (rows, columns, columns, 0)
}

/// On an address that is a multiple of 16 bytes, or as many elements further.
fn memory<T: Clone + Default>(elements: usize) -> Vec<T> {
    vec![T::default(); elements]
}

fn view<T>(memory: &[T], (rows, columns, pitch, offset): Size) -> Matrix<'_, T> {
    let skip = memory.as_ptr().align_offset(16) + offset;
    Matrix::with_pitch(&memory[skip..], rows, columns, pitch).expect("view")
}

fn view_mut<T>(memory: &mut [T], (rows, columns, pitch, offset): Size) -> MatrixMut<'_, T> {
    let skip = memory.as_ptr().align_offset(16) + offset;
    MatrixMut::with_pitch(&mut memory[skip..], rows, columns, pitch).expect("view")
}

#[test]
fn plans() {
    let device = emulated(0);
    let absorb = |tokens, heads| message(MlaAbsorb::plan(&device, MlaAbsorbSpec { tokens, heads }));
    assert_eq!(absorb(1, 1 << 23), "rows of w must be at most 2147483647, got 2147483648");
    assert_eq!(absorb(1 << 24, 128), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(absorb(usize::MAX, 2), format!("tokens * heads must be at most 2147483647, got {}", u64::MAX));
    assert_eq!(absorb(1 << 31, 0), "tokens must be at most 2147483647, got 2147483648");
    let merge = |tokens, heads| {
        let spec = MergeStatesSpec { tokens, heads, infinity_is_empty: false };
        message(MergeStates::<bf16>::plan(&device, spec))
    };
    assert_eq!(merge(1 << 24, 128), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(merge(usize::MAX, 2), format!("tokens * heads must be at most 2147483647, got {}", u64::MAX));
}

const TOKENS: usize = 3;
const HEADS: usize = 2;

/// Runs with `sizes` of a, w, d.
fn run_absorb(query: bool, sizes: [Size; 3]) -> Result<(), Error> {
    let device = emulated(0);
    let plan = MlaAbsorb::plan(&device, MlaAbsorbSpec { tokens: TOKENS, heads: HEADS }).expect("plan");
    let (a, w) = (memory::<bf16>(5000), memory::<bf16>(300_000));
    let mut d = memory::<bf16>(5000);
    let (a, w, d) = (view(&a, sizes[0]), view(&w, sizes[1]), view_mut(&mut d, sizes[2]));
    if query {
        plan.run_query(Stream::Emulated, AbsorbQueryArgs { q: a, w, q_latent: d })
    } else {
        plan.run_output(Stream::Emulated, AbsorbOutputArgs { latent: a, w, out: d })
    }
}

fn absorb_message(query: bool, operand: usize, size: Size) -> String {
    let mut sizes = if query {
        [dense(3, 384), dense(512, 512), dense(6, 576)]
    } else {
        [dense(6, 512), dense(512, 512), dense(3, 256)]
    };
    assert_eq!(run_absorb(query, sizes), Ok(()));
    sizes[operand] = size;
    message(run_absorb(query, sizes))
}

#[test]
fn operands_of_the_query() {
    for (operand, size, expected) in [
        (0, dense(3, 256), "expected q [tokens, heads * 192] [3, 384], got [3, 256]"),
        (0, (3, 384, 388, 0), "q: pitch must be a multiple of 16 bytes, got 776"),
        (0, (3, 384, 384, 1), "q: address must be a multiple of 16 bytes, got 2"),
        (1, dense(256, 512), "expected w [heads * 256, 512] [512, 512], got [256, 512]"),
        (1, (512, 512, 516, 0), "w: pitch must be a multiple of 16 bytes, got 1032"),
        (1, (512, 512, 512, 4), "w: address must be a multiple of 16 bytes, got 8"),
        (2, dense(6, 512), "expected q_latent [tokens * heads, 576] [6, 576], got [6, 512]"),
        (2, (6, 576, 580, 0), "q_latent: pitch must be a multiple of 16 bytes, got 1160"),
        (2, (6, 576, 576, 2), "q_latent: address must be a multiple of 16 bytes, got 4"),
    ] {
        assert_eq!(absorb_message(true, operand, size), expected);
    }
}

#[test]
fn operands_of_the_output() {
    for (operand, size, expected) in [
        (0, dense(3, 512), "expected latent [tokens * heads, 512] [6, 512], got [3, 512]"),
        (0, (6, 512, 515, 0), "latent: pitch must be a multiple of 16 bytes, got 1030"),
        (0, (6, 512, 512, 3), "latent: address must be a multiple of 16 bytes, got 6"),
        (1, dense(512, 256), "expected w [heads * 256, 512] [512, 512], got [512, 256]"),
        (2, dense(3, 128), "expected out [tokens, heads * 128] [3, 256], got [3, 128]"),
        (2, (3, 256, 260, 0), "out: pitch must be a multiple of 16 bytes, got 520"),
        (2, (3, 256, 256, 1), "out: address must be a multiple of 16 bytes, got 2"),
    ] {
        assert_eq!(absorb_message(false, operand, size), expected);
    }
}

/// The pitch of a single row is moot.
#[test]
fn one_row_has_any_pitch() {
    let device = emulated(0);
    let plan = MlaAbsorb::plan(&device, MlaAbsorbSpec { tokens: 1, heads: 1 }).expect("plan");
    let (a, w, mut d) = (memory::<bf16>(1000), memory::<bf16>(300_000), memory::<bf16>(1000));
    for pitch in [577, usize::MAX] {
        let row = |columns| (1, columns, pitch, 0);
        let w = || view(&w, dense(256, 512));
        let args = AbsorbQueryArgs { q: view(&a, row(192)), w: w(), q_latent: view_mut(&mut d, row(576)) };
        assert_eq!(plan.run_query(Stream::Emulated, args), Ok(()));
        let args = AbsorbOutputArgs { latent: view(&a, row(512)), w: w(), out: view_mut(&mut d, row(128)) };
        assert_eq!(plan.run_output(Stream::Emulated, args), Ok(()));
    }
}

/// Runs with `sizes` of o and lse of both parts, then of the result.
fn run_merge(sizes: [Size; 6]) -> Result<(), Error> {
    let device = emulated(0);
    let spec = MergeStatesSpec { tokens: TOKENS, heads: HEADS, infinity_is_empty: false };
    let plan = MergeStates::<bf16>::plan(&device, spec).expect("plan");
    let (o, lse) = (memory::<bf16>(5000), memory::<f32>(64));
    let (mut out_o, mut out_lse) = (memory::<bf16>(5000), memory::<f32>(64));
    let parts = [0, 2].map(|i| AttentionState { o: view(&o, sizes[i]), lse: view(&lse, sizes[i + 1]) });
    let out = AttentionStateMut { o: view_mut(&mut out_o, sizes[4]), lse: view_mut(&mut out_lse, sizes[5]) };
    plan.run(Stream::Emulated, parts, out)
}

#[test]
fn operands_of_a_merge() {
    let good = [dense(6, 512), dense(3, 2), dense(6, 512), dense(3, 2), dense(6, 512), dense(3, 2)];
    assert_eq!(run_merge(good), Ok(()));
    for first in [0, 2, 4] {
        let name = ["o_0", "o_1", "out"][first / 2];
        let address = format!("{name}: address must be a multiple of 16 bytes, got 2");
        for (operand, size, expected) in [
            (0, dense(3, 512), "expected o [tokens * heads, 512] [6, 512], got [3, 512]"),
            (0, (6, 512, 516, 0), "o: pitch must be a multiple of 16 bytes, got 1032"),
            (0, (6, 512, 512, 1), &address),
            (1, dense(2, 3), "expected lse [tokens, heads] [3, 2], got [2, 3]"),
            (1, (3, 2, 4, 0), "lse: rows must follow each other without a gap: expected pitch 2, got 4"),
        ] {
            let mut sizes = good;
            sizes[first + operand] = size;
            assert_eq!(message(run_merge(sizes)), expected);
        }
    }
}
