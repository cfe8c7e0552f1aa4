//! Of the absorbed projections.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::mla::absorb::{AbsorbCase, AbsorbRun};
use deepseek_kernels::mla::{MlaAbsorb, MlaAbsorbSpec};
use deepseek_kernels::{Matrix, MatrixMut, Stream};
use oracles::mla::Side;

use crate::{Spare, message};

#[test]
fn plans() {
    let device = emulated(0);
    let absorb = |tokens, heads| message(MlaAbsorb::plan(&device, MlaAbsorbSpec::new(tokens, heads)));
    assert_eq!(absorb(1, 1 << 23), "rows of w must be at most 2147483647, got 2147483648");
    assert_eq!(absorb(1 << 24, 128), "tokens * heads must be at most 2147483647, got 2147483648");
    assert_eq!(absorb(usize::MAX, 2), format!("tokens * heads must be at most 2147483647, got {}", u64::MAX));
    assert_eq!(absorb(1 << 31, 0), "tokens must be at most 2147483647, got 2147483648");
    let of = |change: fn(MlaAbsorbSpec) -> MlaAbsorbSpec| {
        message(MlaAbsorb::plan(&device, change(MlaAbsorbSpec::new(1, 1))))
    };
    assert_eq!(of(|spec| spec.nope(0)), "nope must be at least 1, got 0");
    assert_eq!(of(|spec| spec.nope(96)), "nope must be a multiple of 64, got 96");
    assert_eq!(of(|spec| spec.rope(20)), "rope must be a multiple of 8, got 20");
    assert_eq!(of(|spec| spec.value(0)), "value must be at least 1, got 0");
    assert_eq!(of(|spec| spec.value(12)), "value must be a multiple of 8, got 12");
}

fn absorb(side: Side, tokens: usize, heads: usize) -> AbsorbRun {
    let problem = Arc::new(AbsorbCase::new(side, tokens, heads).problem().expect("inputs"));
    AbsorbRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    absorb(Side::Query, 3, 2);
    q_of_narrow_rows: |args, spare| args.a = Matrix::new(&spare.halves, 3, 256)?
        => "expected q [tokens, heads * (nope + rope)] [3, 384], got [3, 256]";
    q_with_an_odd_pitch: |args, spare| args.a = Matrix::with_pitch(&spare.halves, 3, 384, 388)?
        => "q: pitch must be a multiple of 16 bytes, got 776";
    q_at_an_odd_address: |args, spare| args.a = Matrix::new(&spare.halves[1..], 3, 384)?
        => "q: address must be a multiple of 16 bytes, got 2";
    w_with_a_missing_head: |args, spare| args.w = Matrix::new(&spare.halves, 256, 512)?
        => "expected w [heads * (nope + value), 512] [512, 512], got [256, 512]";
    w_with_an_odd_pitch: |args, spare| args.w = Matrix::with_pitch(&spare.halves, 512, 512, 516)?
        => "w: pitch must be a multiple of 16 bytes, got 1032";
    w_at_an_odd_address: |args, spare| args.w = Matrix::new(&spare.halves[4..], 512, 512)?
        => "w: address must be a multiple of 16 bytes, got 8";
    q_latent_of_narrow_rows: |args, spare| args.d = MatrixMut::new(&mut spare.halves, 6, 512)?
        => "expected q_latent [tokens * heads, 512 + rope] [6, 576], got [6, 512]";
    q_latent_with_an_odd_pitch: |args, spare| args.d = MatrixMut::with_pitch(&mut spare.halves, 6, 576, 580)?
        => "q_latent: pitch must be a multiple of 16 bytes, got 1160";
    q_latent_at_an_odd_address: |args, spare| args.d = MatrixMut::new(&mut spare.halves[2..], 6, 576)?
        => "q_latent: address must be a multiple of 16 bytes, got 4";
}

rejects! {
    absorb(Side::Output, 3, 2);
    latent_with_missing_rows: |args, spare| args.a = Matrix::new(&spare.halves, 3, 512)?
        => "expected latent [tokens * heads, 512] [6, 512], got [3, 512]";
    latent_with_an_odd_pitch: |args, spare| args.a = Matrix::with_pitch(&spare.halves, 6, 512, 515)?
        => "latent: pitch must be a multiple of 16 bytes, got 1030";
    latent_at_an_odd_address: |args, spare| args.a = Matrix::new(&spare.halves[3..], 6, 512)?
        => "latent: address must be a multiple of 16 bytes, got 6";
    w_of_narrow_rows: |args, spare| args.w = Matrix::new(&spare.halves, 512, 256)?
        => "expected w [heads * (nope + value), 512] [512, 512], got [512, 256]";
    out_with_a_missing_head: |args, spare| args.d = MatrixMut::new(&mut spare.halves, 3, 128)?
        => "expected out [tokens, heads * value] [3, 256], got [3, 128]";
    out_with_an_odd_pitch: |args, spare| args.d = MatrixMut::with_pitch(&mut spare.halves, 3, 256, 260)?
        => "out: pitch must be a multiple of 16 bytes, got 520";
    out_at_an_odd_address: |args, spare| args.d = MatrixMut::new(&mut spare.halves[1..], 3, 256)?
        => "out: address must be a multiple of 16 bytes, got 2";
}

/// The pitch of a single row is moot.
#[test]
fn one_row_has_any_pitch() {
    for (side, a_columns, d_columns) in [(Side::Query, 192, 576), (Side::Output, 512, 128)] {
        let (mut run, spare) = (absorb(side, 1, 1), Spare::new());
        for pitch in [577, usize::MAX] {
            let mut d = spare.halves.clone();
            let mut args = run.operands.args().expect("views");
            args.a = Matrix::with_pitch(&spare.halves, 1, a_columns, pitch).expect("view");
            args.d = MatrixMut::with_pitch(&mut d, 1, d_columns, pitch).expect("view");
            assert_eq!(run.plan.run(Stream::Emulated, args), Ok(()));
        }
    }
}
