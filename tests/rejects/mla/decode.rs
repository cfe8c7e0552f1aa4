//! Of MLA decode.

use std::sync::Arc;

use check::case::Prepared;
use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::mla::decode::{MlaDecodeCase, MlaDecodeRun};
use check::mla::{KEY, LATENT};
use deepseek_kernels::mla::{
    KvCache, KvFormat, KvPaging, LseOrder, MlaDecode, MlaDecodeSpec, MlaScheduleArgs,
};
use deepseek_kernels::{Matrix, MatrixMut, Stream, Tuning, Vector, VectorMut};

use crate::{Spare, message, with};

// ------------------------------------------------------------------------------------------------------------- plans

/// 16 rows of Q, 6 pages, up to 3 splits a sequence.
const SPEC: MlaDecodeSpec =
    MlaDecodeSpec::new(2, 4, KvFormat::Bf16, PAGING, 0.1).q_tokens(2).causal(false).split_keys(64);
const PAGING: KvPaging = KvPaging::Paged { pages: 6, page_size: 64, pages_per_sequence: 3 };

fn plan(spec: MlaDecodeSpec) -> String {
    message(MlaDecode::plan(&emulated(0), spec))
}

fn paged(pages: usize, page_size: usize, pages_per_sequence: usize) -> MlaDecodeSpec {
    with(SPEC, |spec| spec.paging = KvPaging::Paged { pages, page_size, pages_per_sequence })
}

fn contiguous(capacity: usize) -> MlaDecodeSpec {
    with(SPEC, |spec| spec.paging = KvPaging::Contiguous { capacity })
}

#[test]
fn query_tokens_and_heads() {
    let q_tokens = |q_tokens| plan(SPEC.q_tokens(q_tokens));
    assert_eq!(q_tokens(0), "q_tokens must be at least 1, got 0");
    assert_eq!(q_tokens(65), "q_tokens must be at most 64, got 65");
    let heads = |heads| plan(with(SPEC, |spec| spec.heads = heads));
    assert_eq!(heads(0), "heads must be at least 1, got 0");
    assert_eq!(heads(129), "heads must be at most 128, got 129");
}

#[test]
fn orders_of_lse() {
    let order = |q_tokens| plan(SPEC.lse_order(LseOrder::SequencesHeadsTokens { q_tokens }));
    assert_eq!(order(0), "q_tokens of lse_order must be at least 1, got 0");
    let whole = "lse_order must be whole sequences of q_tokens; otherwise another order, got ";
    assert_eq!(order(3), format!("{whole}4 tokens in sequences of 3"));
}

#[test]
fn positions() {
    for rope in [1, 32, 63, 65, 128, usize::MAX] {
        assert_eq!(plan(SPEC.rope(rope)), format!("rope must be 0 or 64, got {rope}"));
    }
}

#[test]
fn split_keys() {
    let split_keys = |split_keys| plan(SPEC.split_keys(split_keys));
    assert_eq!(split_keys(0), "split_keys must be at least 1, got 0");
    assert_eq!(split_keys(100), "split_keys must be a multiple of 64, got 100");
    assert_eq!(plan(contiguous(192).split_keys(96)), "split_keys must be a multiple of 64, got 96");
}

#[test]
fn page_sizes() {
    assert_eq!(plan(paged(6, 0, 3)), "page_size must be at least 1, got 0");
}

#[test]
fn softmax_scales() {
    for (softmax_scale, text) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (-1.0, "-1"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        let expected = format!("softmax_scale must be positive and at most 65536, got {text}");
        assert_eq!(plan(with(SPEC, |spec| spec.softmax_scale = softmax_scale)), expected);
    }
}

#[test]
fn sizes_beyond_what_the_kernels_count() {
    const OVER: &str = "must be at most 2147483647, got 2147483648";
    let endless = format!("must be at most 2147483647, got {}", u64::MAX);
    assert_eq!(plan(paged(1 << 25, 64, 3)), format!("rows of the cache {OVER}"));
    assert_eq!(plan(paged(usize::MAX, 64, 3)), format!("rows of the cache {endless}"));
    assert_eq!(plan(paged(6, 64, 1 << 25)), format!("keys of a sequence {OVER}"));
    assert_eq!(plan(paged(6, 64, usize::MAX)), format!("keys of a sequence {endless}"));
    assert_eq!(plan(contiguous(1 << 30)), format!("rows of the cache {OVER}"));
    assert_eq!(plan(contiguous(usize::MAX)), format!("rows of the cache {endless}"));
    let batch = |batch| plan(with(SPEC, |spec| spec.batch = batch));
    assert_eq!(batch(1 << 28), format!("batch * q_tokens * heads {OVER}"));
    assert_eq!(batch(usize::MAX), format!("batch * q_tokens * heads {endless}"));
    let packed = |tokens| plan(SPEC.packed_tokens(Some(tokens)));
    assert_eq!(packed(1 << 29), format!("rows of q {OVER}"));
    assert_eq!(packed(usize::MAX), format!("rows of q {endless}"));
    let splits = with(paged(6, 64, 1 << 11), |spec| spec.batch = 1 << 20);
    assert_eq!(plan(splits), format!("splits {OVER}"));
}

#[test]
fn tunings_that_do_not_fit_or_do_not_exist() {
    let plan = |spec, name: &str| message(MlaDecode::plan_with(&emulated(0), spec, &Tuning::named(name)));
    let fp8 = with(SPEC, |spec| spec.format = KvFormat::Fp8);
    let of_bf16 = "tuning must be one of MlaDecode::tunings(KvFormat::Bf16), got ";
    let of_fp8 = "tuning must be one of MlaDecode::tunings(KvFormat::Fp8), got ";
    for tuning in MlaDecode::tunings(KvFormat::Fp8) {
        assert_eq!(plan(SPEC, tuning.name()), format!("{of_bf16}{tuning}"));
    }
    for tuning in MlaDecode::tunings(KvFormat::Bf16) {
        assert_eq!(plan(fp8, tuning.name()), format!("{of_fp8}{tuning}"));
    }
    for name in ["mla_decode_bf16_c4", "mla_decode_bf16_c0", "mla_decode_bf16", ""] {
        assert_eq!(plan(SPEC, name), format!("{of_bf16}{name}"));
    }
    assert_eq!(plan(fp8, "mla_decode_fp8_c3"), format!("{of_fp8}mla_decode_fp8_c3"));
    let bad = with(SPEC, |spec| spec.heads = 0);
    assert_eq!(plan(bad, "mla_decode_bf16_c1"), "heads must be at least 1, got 0");
}

// ---------------------------------------------------------------------------------------------------------- operands

/// Two sequences of up to three splits: 16 rows of Q, 9 pages, 3 of them a sequence's.
fn case(format: KvFormat) -> MlaDecodeCase {
    MlaDecodeCase { q_tokens: 2, heads: 4, split_keys: Some(64), ..MlaDecodeCase::new(format, vec![100, 64]) }
}

fn run(case: MlaDecodeCase) -> MlaDecodeRun {
    let problem = Arc::new(case.problem().expect("inputs"));
    MlaDecodeRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

/// Rows of the cache.
const ROWS: usize = 9 * 64;
/// Bytes of the partial results: six splits of 8 rows.
const SCRATCH: usize = 6 * 8 * (LATENT + 2) * 4;

rejects! {
    run(case(KvFormat::Bf16));
    lengths_of_another_batch: |call, spare| call.schedule.lengths = Vector::new(&spare.integers, 3)?.into()
        => "expected lengths [batch] [2], got [3]";
    wide_lengths_of_another_batch: |call, spare| call.schedule.lengths = Vector::new(&spare.longs, 1)?.into()
        => "expected lengths [batch] [2], got [1]";
    offsets_where_tokens_are_not_packed: |call, spare|
        call.schedule.q_offsets = Some(Vector::new(&spare.integers, 3)?.into())
        => "q_offsets: expected none, all sequences have as many tokens, got one";
    lengths_in_a_column: |call, spare| call.schedule.lengths = Matrix::new(&spare.integers, 2, 1)?.into()
        => "expected lengths [batch] [2], got [2, 1]";
    tables_too_short: |call, spare| call.schedule.tables = VectorMut::new(&mut spare.words, 20)?
        => "expected tables [tables] [21], got [20]";
    tables_too_long: |call, spare| call.schedule.tables = VectorMut::new(&mut spare.words, 22)?
        => "expected tables [tables] [21], got [22]";
    tables_at_an_odd_address: |call, spare| call.schedule.tables = VectorMut::new(&mut spare.words[1..], 21)?
        => "tables: address must be a multiple of 8 bytes, got 4";

    q_with_a_missing_row: |call, spare| call.attend.q = Matrix::new(&spare.halves, 15, KEY)?
        => "expected q [tokens * heads, 576] [16, 576], got [15, 576]";
    q_without_its_position: |call, spare| call.attend.q = Matrix::new(&spare.halves, 16, LATENT)?
        => "expected q [tokens * heads, 576] [16, 576], got [16, 512]";
    q_with_an_odd_pitch: |call, spare| call.attend.q = Matrix::with_pitch(&spare.halves, 16, KEY, KEY + 4)?
        => "q: pitch must be a multiple of 16 bytes, got 1160";
    q_at_an_odd_address: |call, spare| call.attend.q = Matrix::new(&spare.halves[1..], 16, KEY)?
        => "q: address must be a multiple of 16 bytes, got 2";
    q_longer_than_its_memory: |call, spare| call.attend.q = Matrix::new(&spare.halves[..11_520], 21, KEY)?
        => "[21, 576] with pitch 576 needs 12096 elements, the slice has 11520";

    cache_with_a_missing_page: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, ROWS - 64, KEY)?)
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [576, 576], got [512, 576]";
    cache_of_narrow_rows: |call, spare| call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, ROWS, LATENT)?)
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [576, 576], got [576, 512]";
    cache_with_an_odd_pitch: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::with_pitch(&spare.halves, ROWS, KEY, KEY + 1)?)
        => "cache: pitch must be a multiple of 16 bytes, got 1154";
    cache_at_an_odd_address: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves[4..], ROWS, KEY)?)
        => "cache: address must be a multiple of 16 bytes, got 8";
    cache_of_pages_of_another_size: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, ROWS / 32, 32 * KEY)?)
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [576, 576], got [18, 18432]";
    cache_of_a_page_too_few: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, ROWS / 64 - 1, 64 * KEY)?)
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [576, 576], got [8, 36864]";
    cache_of_pages_with_an_odd_pitch: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::with_pitch(&spare.halves, ROWS / 64, 64 * KEY, 64 * KEY + 4)?)
        => "cache: pitch must be a multiple of 16 bytes, got 73736";
    fp8_cache_for_a_plan_of_bf16: |call, spare| call.attend.cache = KvCache::Fp8(Matrix::new(&spare.bytes, ROWS, 656)?)
        => "cache: expected BF16 rows, got FP8 rows";

    page_table_with_a_missing_column: |call, spare| call.attend.page_table = Some(Matrix::new(&spare.integers, 2, 2)?.into())
        => "expected page_table [batch, pages_per_sequence] [2, 3], got [2, 2]";
    wide_page_table_with_a_column_too_many: |call, spare|
        call.attend.page_table = Some(Matrix::with_pitch(&spare.longs, 2, 4, 5)?.into())
        => "expected page_table [batch, pages_per_sequence] [2, 3], got [2, 4]";
    page_table_in_a_row: |call, spare| call.attend.page_table = Some(Vector::new(&spare.longs, 6)?.into())
        => "expected page_table [batch, pages_per_sequence] [2, 3], got [1, 6]";
    page_table_of_another_batch: |call, spare| call.attend.page_table = Some(Matrix::new(&spare.words, 1, 3)?.into())
        => "expected page_table [batch, pages_per_sequence] [2, 3], got [1, 3]";
    no_page_table_for_a_paged_cache: |call, _spare| call.attend.page_table = None
        => "page_table: expected one, the cache is paged, got none";

    scratch_too_short: |call, spare| call.attend.scratch = (&mut spare.bytes[..SCRATCH - 1]).into()
        => "scratch must have at least 98688 bytes, got 98687";
    no_scratch: |call, spare| call.attend.scratch = (&mut spare.bytes[..0]).into()
        => "scratch must have at least 98688 bytes, got 0";
    scratch_at_an_odd_address: |call, spare| call.attend.scratch = (&mut spare.bytes[8..]).into()
        => "scratch: address must be a multiple of 16 bytes, got 8";

    out_with_a_missing_row: |call, spare| call.attend.out = MatrixMut::new(&mut spare.halves, 15, LATENT)?
        => "expected out [tokens * heads, 512] [16, 512], got [15, 512]";
    out_with_an_odd_pitch: |call, spare|
        call.attend.out = MatrixMut::with_pitch(&mut spare.halves, 16, LATENT, LATENT + 2)?
        => "out: pitch must be a multiple of 16 bytes, got 1028";
    out_at_an_odd_address: |call, spare| call.attend.out = MatrixMut::new(&mut spare.halves[2..], 16, LATENT)?
        => "out: address must be a multiple of 16 bytes, got 4";

    lse_of_the_wrong_tokens: |call, spare| call.attend.lse = MatrixMut::new(&mut spare.floats, 2, 8)?
        => "expected lse [tokens, heads] [4, 4], got [2, 8]";
}

rejects! {
    run(case(KvFormat::Fp8));
    fp8_cache_with_a_missing_page: |call, spare|
        call.attend.cache = KvCache::Fp8(Matrix::new(&spare.bytes, ROWS - 64, 656)?)
        => "expected cache [pages * page_size, 656] or [pages, page_size * 656] [576, 656], got [512, 656]";
    fp8_cache_of_narrow_rows: |call, spare| call.attend.cache = KvCache::Fp8(Matrix::new(&spare.bytes, ROWS, KEY)?)
        => "expected cache [pages * page_size, 656] or [pages, page_size * 656] [576, 656], got [576, 576]";
    fp8_cache_with_an_odd_pitch: |call, spare|
        call.attend.cache = KvCache::Fp8(Matrix::with_pitch(&spare.bytes, ROWS, 656, 664)?)
        => "cache: pitch must be a multiple of 16 bytes, got 664";
    fp8_cache_at_an_odd_address: |call, spare|
        call.attend.cache = KvCache::Fp8(Matrix::new(&spare.bytes[8..], ROWS, 656)?)
        => "cache: address must be a multiple of 16 bytes, got 8";
    bf16_cache_for_a_plan_of_fp8: |call, spare| call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, ROWS, KEY)?)
        => "cache: expected FP8 rows, got BF16 rows";
}

rejects! {
    run(case(KvFormat::Fp8PerTensor));
    per_tensor_cache_of_wide_rows: |call, spare| {
        let (rows, scale) = (Matrix::new(&spare.bytes, ROWS, 656)?, Vector::new(&spare.floats, 1)?);
        call.attend.cache = KvCache::Fp8PerTensor { rows, scale }
    }
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [576, 576], got [576, 656]";
    per_tensor_cache_with_an_odd_pitch: |call, spare| {
        let (rows, scale) = (Matrix::with_pitch(&spare.bytes, ROWS, 576, 584)?, Vector::new(&spare.floats, 1)?);
        call.attend.cache = KvCache::Fp8PerTensor { rows, scale }
    }
        => "cache: pitch must be a multiple of 16 bytes, got 584";
    per_tensor_cache_with_scales_of_blocks: |call, spare| {
        let (rows, scale) = (Matrix::new(&spare.bytes, ROWS, 576)?, Vector::new(&spare.floats, 4)?);
        call.attend.cache = KvCache::Fp8PerTensor { rows, scale }
    }
        => "expected cache scale [1] [1], got [4]";
    fp8_cache_without_its_scale: |call, spare| call.attend.cache = KvCache::Fp8(Matrix::new(&spare.bytes, ROWS, 576)?)
        => "cache: expected FP8 rows with a per-tensor scale, got FP8 rows";
}

rejects! {
    run(MlaDecodeCase { rope: 0, ..case(KvFormat::Bf16) });
    q_with_a_position: |call, spare| call.attend.q = Matrix::new(&spare.halves, 16, KEY)?
        => "expected q [tokens * heads, 512] [16, 512], got [16, 576]";
    cache_with_a_position: |call, spare| call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, ROWS, KEY)?)
        => "expected cache [pages * page_size, 512] or [pages, page_size * 512] [576, 512], got [576, 576]";
}

rejects! {
    run(MlaDecodeCase { rope: 0, ..case(KvFormat::Fp8) });
    fp8_cache_with_a_position: |call, spare| call.attend.cache = KvCache::Fp8(Matrix::new(&spare.bytes, ROWS, 656)?)
        => "expected cache [pages * page_size, 528] or [pages, page_size * 528] [576, 528], got [576, 656]";
}

rejects! {
    run(MlaDecodeCase { page_size: None, ..case(KvFormat::Bf16) });
    contiguous_cache_of_another_capacity: |call, spare|
        call.attend.cache = KvCache::Bf16(Matrix::new(&spare.halves, 192, KEY)?)
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [210, 576], got [192, 576]";
    page_table_for_a_contiguous_cache: |call, spare| call.attend.page_table = Some(Matrix::new(&spare.integers, 2, 3)?.into())
        => "page_table: expected none, the cache is contiguous, got one";
}

rejects! {
    run(case(KvFormat::Bf16).packed(vec![2, 1]));
    offsets_of_another_batch: |call, spare| call.schedule.q_offsets = Some(Vector::new(&spare.longs, 2)?.into())
        => "expected q_offsets [batch + 1] [3], got [2]";
    no_offsets_for_packed_tokens: |call, _spare| call.schedule.q_offsets = None
        => "q_offsets: expected one, tokens are packed, got none";
    packed_q_with_a_missing_row: |call, spare| call.attend.q = Matrix::new(&spare.halves, 23, KEY)?
        => "expected q [tokens * heads, 576] [24, 576], got [23, 576]";
    packed_out_with_a_missing_row: |call, spare| call.attend.out = MatrixMut::new(&mut spare.halves, 23, LATENT)?
        => "expected out [tokens * heads, 512] [24, 512], got [23, 512]";
    packed_lse_with_a_missing_token: |call, spare| call.attend.lse = MatrixMut::new(&mut spare.floats, 5, 4)?
        => "expected lse [tokens, heads] [6, 4], got [5, 4]";
}

rejects! {
    run(MlaDecodeCase { lse_order: LseOrder::SequencesHeadsTokens { q_tokens: 2 }, ..case(KvFormat::Bf16) });
    lse_of_other_sequences: |call, spare| call.attend.lse = MatrixMut::new(&mut spare.floats, 4, 4)?
        => "expected lse [tokens / q_tokens * heads, q_tokens] [8, 2], got [4, 4]";
}

#[test]
fn splits_of_another_plan() {
    for (other, got) in [
        (
            MlaDecodeCase { split_keys: Some(128), ..case(KvFormat::Bf16) },
            "splits: expected batch 2, query tokens 2, 192 keys a sequence, splits of 128, got batch 2, query tokens 2, 192 keys \
             a sequence, splits of 64",
        ),
        (
            MlaDecodeCase { lengths: vec![60, 64], ..case(KvFormat::Bf16) },
            "splits: expected batch 2, query tokens 2, 128 keys a sequence, splits of 64, got batch 2, query tokens 2, 192 keys \
             a sequence, splits of 64",
        ),
        (
            case(KvFormat::Bf16).packed(vec![2, 1]),
            "splits: expected batch 2, query tokens up to 2, 6 together, 192 keys a sequence, splits of 64, got batch 2, \
             query tokens 2, 192 keys a sequence, splits of 64",
        ),
    ] {
        let (mut scheduled, mut other) = (run(case(KvFormat::Bf16)), run(other));
        let before = other.outputs().expect("outputs");
        let call = scheduled.operands.args().expect("views");
        let mut splits = scheduled.plan.decode.schedule(Stream::Emulated, call.schedule).expect("schedule");
        let args = other.operands.args().expect("views").attend;
        assert_eq!(message(other.plan.decode.attend(Stream::Emulated, &mut splits, args)), got);
        assert!(other.outputs().expect("outputs") == before, "written");
    }
}

/// A sequence that always fits one split has no partial results: the scratch may be of any size, and is not touched.
#[test]
fn scratch_where_none_is_needed() {
    let mut run = run(MlaDecodeCase { split_keys: Some(192), ..case(KvFormat::Bf16) });
    assert_eq!(run.plan.decode.scratch_bytes(), 0);
    let mut spare = Spare::new();
    let mut args = run.operands.args().expect("views");
    args.attend.scratch = (&mut spare.bytes).into();
    run.plan.run(Stream::Emulated, args).expect("more than enough");
    assert!(spare == Spare::new(), "written");
}

/// `schedule` and `attend` look at what they take as `run` does.
#[test]
fn the_halves_of_a_step() {
    let [mut run, mut other] = [(); 2].map(|()| run(case(KvFormat::Bf16)));
    let before = run.outputs().expect("outputs");
    let mut spare = Spare::new();
    let call = run.operands.args().expect("views");
    let tables = VectorMut::new(&mut spare.words, 20).expect("view");
    let short = MlaScheduleArgs { lengths: call.schedule.lengths.clone(), q_offsets: None, tables };
    let error = message(run.plan.decode.schedule(Stream::Emulated, short));
    assert_eq!(error, "expected tables [tables] [21], got [20]");
    assert!(spare == Spare::new(), "written");
    let plan = &run.plan.decode;
    let mut splits = plan.schedule(Stream::Emulated, call.schedule).expect("schedule");
    let mut args = call.attend;
    args.q = Matrix::new(&spare.halves[1..], 16, KEY).expect("view");
    assert_eq!(
        message(plan.attend(Stream::Emulated, &mut splits, args)),
        "q: address must be a multiple of 16 bytes, got 2"
    );
    let mut args = other.operands.args().expect("views").attend;
    args.scratch = (&mut spare.bytes[..SCRATCH - 1]).into();
    assert_eq!(
        message(plan.attend(Stream::Emulated, &mut splits, args)),
        "scratch must have at least 98688 bytes, got 98687"
    );
    for run in [run, other] {
        assert!(run.outputs().expect("outputs") == before, "written");
    }
}
