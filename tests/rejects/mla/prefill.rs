//! Of MLA prefill.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::mla::prefill::{MlaPrefillCase, MlaPrefillRun, VALUE};
use deepseek_kernels::mla::{Heads, HeadsMut, MlaPrefill, MlaPrefillSpec};
use deepseek_kernels::{MatrixMut, Vector};
use oracles::mla::HeadColumns;

use crate::{message, with};

// ------------------------------------------------------------------------------------------------------------- plans

const SPEC: MlaPrefillSpec = MlaPrefillSpec::new(2, 9, 12, 3, 0.1);

fn plan(change: impl FnOnce(&mut MlaPrefillSpec)) -> String {
    message(MlaPrefill::plan(&emulated(0), with(SPEC, change)))
}

#[test]
fn heads_and_scales() {
    assert_eq!(plan(|spec| spec.heads = 0), "heads must be at least 1, got 0");
    assert_eq!(plan(|spec| spec.heads = 129), "heads must be at most 128, got 129");
    let expected = "softmax_scale must be positive and at most 65536, got ";
    for (scale, text) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        assert_eq!(plan(|spec| spec.softmax_scale = scale), format!("{expected}{text}"));
    }
}

/// Two widths are compiled; each number is compared with its partner.
#[test]
fn heads_of_other_widths() {
    let expected = "nope and value must be 128 and 128, as DeepSeek-V3 has them, or 192 and 256, as GLM-5 \
                    (narrower heads: fill up with zeros)";
    for (nope, value) in [(0, 128), (128, 0), (64, 64), (128, 256), (192, 128), (256, 256), (usize::MAX, 128)]
    {
        let message = plan(|spec| (spec.nope, spec.value) = (nope, value));
        assert_eq!(message, format!("{expected}, got {nope} and {value}"));
    }
}

#[test]
fn sizes_beyond_what_the_kernel_counts() {
    const OVER: &str = "must be at most 2147483647, got 2147483648";
    assert_eq!(plan(|spec| spec.batch = 1 << 31), format!("batch {OVER}"));
    assert_eq!(plan(|spec| spec.tokens = 1 << 31), format!("tokens {OVER}"));
    assert_eq!(plan(|spec| spec.keys = 1 << 31), format!("keys {OVER}"));
    // Every sequence may have a tile that is not full.
    let tiles = plan(|spec| (spec.batch, spec.tokens, spec.heads) = (1 << 24, 1 << 24, 128));
    assert_eq!(tiles, "tiles of queries must be at most 2147483647, got 2164260864");
    let endless = plan(|spec| (spec.batch, spec.tokens) = (usize::MAX, usize::MAX));
    assert_eq!(endless, format!("batch must be at most 2147483647, got {}", usize::MAX));
}

// ---------------------------------------------------------------------------------------------------------- operands

/// 8 tokens of 2 heads, of which 3 are nobody's, and 15 keys.
fn prefill() -> MlaPrefillRun {
    let problem = Arc::new(MlaPrefillCase::new(vec![(3, 4), (2, 6)]).problem().expect("inputs"));
    MlaPrefillRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    prefill();
    q_with_a_missing_token: |args, spare| args.q = Heads::with_columns(&spare.halves, [7, 2, 192], 384, 192)?
        => "expected q [tokens, heads] [8, 2], got [7, 2]";
    q_of_another_head: |args, spare| args.q = Heads::with_columns(&spare.halves, [8, 3, 192], 576, 192)?
        => "expected q [tokens, heads] [8, 2], got [8, 3]";
    q_without_its_position: |args, spare| args.q = Heads::with_columns(&spare.halves, [8, 2, 128], 384, 192)?
        => "expected q [columns] of a head [192], got [128]";
    q_of_a_position_alone: |args, spare| args.q = Heads::new(&spare.halves, 8, 2, 384, 192)?
        => "expected q [columns] of a head [192], got [64]";
    q_with_overlapping_heads: |args, spare| args.q = Heads::with_columns(&spare.halves, [8, 2, 192], 384, 191)?
        => "pitch must be at least the number of columns: expected >= 192, got 191";
    q_with_an_odd_stride: |args, spare| args.q = Heads::with_columns(&spare.halves, [8, 2, 192], 392, 196)?
        => "q: stride of heads must be a multiple of 16 bytes, got 392";
    q_with_an_odd_pitch: |args, spare| args.q = Heads::with_columns(&spare.halves, [8, 2, 192], 388, 192)?
        => "q: pitch must be a multiple of 16 bytes, got 776";
    q_at_an_odd_address: |args, spare| args.q = Heads::with_columns(&spare.halves[1..], [8, 2, 192], 384, 192)?
        => "q: address must be a multiple of 16 bytes, got 2";
    keys_with_one_missing: |args, spare| args.k_nope = Heads::with_columns(&spare.halves, [14, 2, 128], 512, 256)?
        => "expected k_nope [keys, heads] [15, 2], got [14, 2]";
    keys_with_their_position: |args, spare| args.k_nope = Heads::with_columns(&spare.halves, [15, 2, 192], 384, 192)?
        => "expected k_nope [columns] of a head [128], got [192]";
    positions_of_some_heads: |args, spare| args.k_pe = Heads::new(&spare.halves, 15, 3, 192, 64)?
        => "expected k_pe [keys, 1 or heads] [15, 2], got [15, 3]";
    positions_with_a_key_missing: |args, spare| args.k_pe = Heads::new(&spare.halves, 14, 1, 64, 64)?
        => "expected k_pe [keys, 1 or heads] [15, 1], got [14, 1]";
    positions_of_no_head: |args, spare| args.k_pe = Heads::new(&spare.halves, 15, 0, 64, 64)?
        => "expected k_pe [keys, 1 or heads] [15, 2], got [15, 0]";
    values_of_another_head: |args, spare| args.v = Heads::with_columns(&spare.halves, [15, 1, 128], 128, 128)?
        => "expected v [keys, heads] [15, 2], got [15, 1]";
    values_at_an_odd_address: |args, spare| args.v = Heads::with_columns(&spare.halves[4..], [15, 2, 128], 512, 256)?
        => "v: address must be a multiple of 16 bytes, got 8";
    values_longer_than_their_memory: |args, spare|
        args.v = Heads::with_columns(&spare.halves[..3840], [15, 2, 128], 512, 256)?
        => "[15, 384] with pitch 512 needs 7552 elements, the slice has 3840";
    q_offsets_without_an_end: |args, spare| args.q_offsets = Vector::new(&spare.integers, 2)?.into()
        => "expected q_offsets [batch + 1] [3], got [2]";
    wide_k_offsets_with_one_too_many: |args, spare| args.k_offsets = Vector::new(&spare.longs, 4)?.into()
        => "expected k_offsets [batch + 1] [3], got [4]";
    out_with_a_missing_token: |args, spare|
        args.out = HeadsMut::with_columns(&mut spare.halves, [7, 2, VALUE], 256, 128)?
        => "expected out [tokens, heads] [8, 2], got [7, 2]";
    out_as_wide_as_a_query: |args, spare|
        args.out = HeadsMut::with_columns(&mut spare.halves, [8, 2, 192], 384, 192)?
        => "expected out [columns] of a head [128], got [192]";
    out_with_an_odd_stride: |args, spare|
        args.out = HeadsMut::with_columns(&mut spare.halves, [8, 2, VALUE], 264, 132)?
        => "out: stride of heads must be a multiple of 16 bytes, got 264";
    out_at_an_odd_address: |args, spare|
        args.out = HeadsMut::with_columns(&mut spare.halves[2..], [8, 2, VALUE], 256, 128)?
        => "out: address must be a multiple of 16 bytes, got 4";
    lse_by_heads: |args, spare| args.lse = MatrixMut::new(&mut spare.floats, 2, 8)?
        => "expected lse [tokens, heads] [8, 2], got [2, 8]";
}

/// The same with GLM-5's heads.
fn wide_prefill() -> MlaPrefillRun {
    let case = MlaPrefillCase { columns: HeadColumns::GLM_5, ..MlaPrefillCase::new(vec![(3, 4), (2, 6)]) };
    let problem = Arc::new(case.problem().expect("inputs"));
    MlaPrefillRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    wide_prefill();
    q_of_narrow_heads: |args, spare| args.q = Heads::with_columns(&spare.halves, [8, 2, 192], 384, 192)?
        => "expected q [columns] of a head [256], got [192]";
    keys_of_narrow_heads: |args, spare|
        args.k_nope = Heads::with_columns(&spare.halves, [15, 2, 128], 512, 256)?
        => "expected k_nope [columns] of a head [192], got [128]";
    values_of_narrow_heads: |args, spare| args.v = Heads::with_columns(&spare.halves, [15, 2, 128], 512, 256)?
        => "expected v [columns] of a head [256], got [128]";
    out_of_narrow_heads: |args, spare|
        args.out = HeadsMut::with_columns(&mut spare.halves, [8, 2, VALUE], 512, 256)?
        => "expected out [columns] of a head [256], got [128]";
}
