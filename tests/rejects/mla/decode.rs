//! Every bad input of MLA decode gets an error that says what was expected and what came; nothing is launched, so that
//! nothing is written, and the device goes on working.

use check::devices::emulated;
use deepseek_kernels::mla::{
    EmptyLse, KvCache, KvFormat, KvPaging, MlaDecode, MlaDecodeArgs, MlaDecodeSpec, MlaInstance,
};
use deepseek_kernels::{Device, Error, Matrix, MatrixMut, Stream, bf16};

use crate::message;

/// 16 rows of Q, 6 pages, up to 3 splits a sequence.
const SPEC: MlaDecodeSpec = MlaDecodeSpec {
    batch: 2,
    q_tokens: 2,
    heads: 4,
    format: KvFormat::Bf16,
    paging: KvPaging::Paged { pages: 6, page_size: 64, pages_per_sequence: 3 },
    softmax_scale: 0.1,
    causal: false,
    split_keys: 64,
    empty_lse: EmptyLse::NegativeInfinity,
};
const CONTIGUOUS: KvPaging = KvPaging::Contiguous { capacity: 192 };
const KEY: usize = 576;
const LATENT: usize = 512;

// ------------------------------------------------------------------------------------------------------------- plans

fn plan(spec: MlaDecodeSpec) -> String {
    message(MlaDecode::plan(&emulated(0), spec))
}

fn paged(pages: usize, page_size: usize, pages_per_sequence: usize) -> MlaDecodeSpec {
    MlaDecodeSpec { paging: KvPaging::Paged { pages, page_size, pages_per_sequence }, ..SPEC }
}

#[test]
fn query_tokens_and_heads() {
    let q_tokens = |q_tokens| plan(MlaDecodeSpec { q_tokens, ..SPEC });
    assert_eq!(q_tokens(0), "q_tokens must be at least 1, got 0");
    assert_eq!(q_tokens(9), "q_tokens must be at most 8, got 9");
    let heads = |heads| plan(MlaDecodeSpec { heads, ..SPEC });
    assert_eq!(heads(0), "heads must be at least 1, got 0");
    assert_eq!(heads(129), "heads must be at most 128, got 129");
}

#[test]
fn split_keys() {
    let split_keys = |split_keys| plan(MlaDecodeSpec { split_keys, ..SPEC });
    assert_eq!(split_keys(0), "split_keys must be at least 1, got 0");
    assert_eq!(split_keys(100), "split_keys must be a multiple of 64, got 100");
    let contiguous = MlaDecodeSpec { paging: CONTIGUOUS, split_keys: 96, ..SPEC };
    assert_eq!(plan(contiguous), "split_keys must be a multiple of 64, got 96");
}

#[test]
fn page_sizes() {
    assert_eq!(plan(paged(6, 0, 3)), "page_size must be at least 1, got 0");
    for page_size in [32, 100] {
        let expected = format!("page_size must be a multiple of 64, got {page_size}");
        assert_eq!(plan(paged(6, page_size, 3)), expected);
    }
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
        let expected = format!("softmax_scale must be positive and finite, got {text}");
        assert_eq!(plan(MlaDecodeSpec { softmax_scale, ..SPEC }), expected);
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
    let contiguous = |capacity| plan(MlaDecodeSpec { paging: KvPaging::Contiguous { capacity }, ..SPEC });
    assert_eq!(contiguous(1 << 30), format!("rows of the cache {OVER}"));
    assert_eq!(contiguous(usize::MAX), format!("rows of the cache {endless}"));
    let batch = |batch| plan(MlaDecodeSpec { batch, ..SPEC });
    assert_eq!(batch(1 << 28), format!("rows of q {OVER}"));
    assert_eq!(batch(usize::MAX), format!("rows of q {endless}"));
    let splits = MlaDecodeSpec { batch: 1 << 20, ..paged(6, 64, 1 << 11) };
    assert_eq!(plan(splits), format!("splits {OVER}"));
}

#[test]
fn instances_that_do_not_fit_or_do_not_exist() {
    let plan = |spec, fp8_cache, cluster| {
        message(MlaDecode::plan_instance(&emulated(0), spec, MlaInstance { fp8_cache, cluster }))
    };
    let fp8 = MlaDecodeSpec { format: KvFormat::Fp8, ..SPEC };
    let of_bf16 = "instance must be one of MLA_INSTANCES for BF16 rows, got mla_decode_";
    let of_fp8 = "instance must be one of MLA_INSTANCES for FP8 rows, got mla_decode_";
    assert_eq!(plan(SPEC, true, 1), format!("{of_bf16}fp8_c1"));
    assert_eq!(plan(fp8, false, 1), format!("{of_fp8}bf16_c1"));
    assert_eq!(plan(SPEC, false, 4), format!("{of_bf16}bf16_c4"));
    assert_eq!(plan(SPEC, false, 0), format!("{of_bf16}bf16_c0"));
    assert_eq!(plan(fp8, true, 3), format!("{of_fp8}fp8_c3"));
    let bad = MlaDecodeSpec { heads: 0, ..SPEC };
    assert_eq!(plan(bad, false, 1), "heads must be at least 1, got 0");
}

// ---------------------------------------------------------------------------------------------------------- operands

/// Where an operand lies in its memory, from an element on.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    rows: usize,
    columns: usize,
    pitch: usize,
}

const fn dense(rows: usize, columns: usize) -> Place {
    Place { first: 0, rows, columns, pitch: columns }
}

impl Place {
    const fn pitch(self, pitch: usize) -> Self {
        Self { pitch, ..self }
    }

    const fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    fn read<T>(self, data: &[T]) -> Result<Matrix<'_, T>, Error> {
        Matrix::with_pitch(&data[self.first..], self.rows, self.columns, self.pitch)
    }

    fn write<T>(self, data: &mut [T]) -> Result<MatrixMut<'_, T>, Error> {
        MatrixMut::with_pitch(&mut data[self.first..], self.rows, self.columns, self.pitch)
    }
}

/// What a call says of its operands: a test gets one of them wrong.
#[derive(Clone, Copy)]
struct Call {
    spec: MlaDecodeSpec,
    lengths: Place,
    tables: Place,
    q: Place,
    cache: Place,
    /// Of the cache that is passed.
    format: KvFormat,
    page_table: Option<Place>,
    partials: Place,
    out: Place,
    lse: Place,
}

const GOOD: Call = Call {
    spec: SPEC,
    lengths: dense(1, 2),
    tables: dense(1, 17),
    q: dense(16, KEY),
    cache: dense(384, KEY),
    format: KvFormat::Bf16,
    page_table: Some(dense(2, 3)),
    partials: dense(1, PARTIALS),
    out: dense(16, LATENT),
    lse: dense(4, 4),
};
/// Six splits of 8 rows.
const PARTIALS: usize = 6 * 8 * (LATENT + 2);

impl Call {
    fn fp8(&mut self) {
        self.spec.format = KvFormat::Fp8;
        self.format = KvFormat::Fp8;
        self.cache = dense(384, 656);
    }
}

struct Inputs {
    lengths: Vec<i32>,
    q: Vec<bf16>,
    bf16_cache: Vec<bf16>,
    fp8_cache: Vec<u8>,
    page_table: Vec<i32>,
}

/// Everything that a step may write.
#[derive(Clone, PartialEq)]
struct Outputs {
    tables: Vec<u32>,
    partials: Vec<f32>,
    out: Vec<bf16>,
    lse: Vec<f32>,
}

/// Queries of 0 and keys of 1, with room to spare.
fn inputs() -> Inputs {
    Inputs {
        lengths: vec![150, 64, 0],
        q: vec![bf16::ZERO; 20 * KEY],
        bf16_cache: vec![bf16::ONE; 400 * KEY],
        fp8_cache: vec![0; 400 * 700],
        page_table: vec![3, 1, 5, 0, 2, 4, 0, 0],
    }
}

fn outputs() -> Outputs {
    Outputs {
        tables: vec![0xdead_beef; 40],
        partials: vec![-1.0; PARTIALS + 8],
        out: vec![bf16::NEG_ONE; 20 * LATENT],
        lse: vec![-1.0; 40],
    }
}

fn args<'a>(
    call: &Call,
    inputs: &'a Inputs,
    (partials, out, lse): (&'a mut [f32], &'a mut [bf16], &'a mut [f32]),
) -> Result<MlaDecodeArgs<'a>, Error> {
    Ok(MlaDecodeArgs {
        q: call.q.read(&inputs.q)?,
        cache: match call.format {
            KvFormat::Bf16 => KvCache::Bf16(call.cache.read(&inputs.bf16_cache)?),
            KvFormat::Fp8 => KvCache::Fp8(call.cache.read(&inputs.fp8_cache)?),
        },
        page_table: call.page_table.map(|place| place.read(&inputs.page_table)).transpose()?,
        partials: call.partials.write(partials)?,
        out: call.out.write(out)?,
        lse: call.lse.write(lse)?,
    })
}

fn run(device: &Device, call: &Call, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), Error> {
    let Outputs { tables, partials, out, lse } = outputs;
    let args = args(call, inputs, (partials, out, lse))?;
    MlaDecode::plan(device, call.spec)?.run(
        Stream::Emulated,
        call.lengths.read(&inputs.lengths)?,
        call.tables.write(tables)?,
        args,
    )
}

/// The message of the error; nothing written; then the same device runs the step as if nothing had been.
fn rejected(change: fn(&mut Call)) -> String {
    let device = emulated(0);
    let inputs = inputs();
    let mut memory = outputs();
    let mut call = GOOD;
    change(&mut call);
    let error = run(&device, &call, &inputs, &mut memory).expect_err("must be rejected");
    assert!(memory == outputs(), "something was written although the call failed: {error}");
    run(&device, &GOOD, &inputs, &mut memory).expect("the device still works");
    assert!(memory.out[..16 * LATENT].iter().all(|&x| x == bf16::ONE), "the mean of ones");
    error.to_string()
}

/// One test per message: what is wrong, and the text it must give.
macro_rules! rejects {
    ($($name:ident: |$call:ident| $change:expr => $message:literal;)*) => {$(
        #[test]
        fn $name() {
            fn change($call: &mut Call) {
                $change;
            }
            assert_eq!(rejected(change), $message);
        }
    )*};
}

rejects! {
    lengths_of_another_batch: |call| call.lengths = dense(1, 3) => "expected lengths [1, batch] [1, 2], got [1, 3]";
    lengths_in_a_column: |call| call.lengths = dense(2, 1) => "expected lengths [1, batch] [1, 2], got [2, 1]";
    tables_too_short: |call| call.tables = dense(1, 16) => "expected tables [1, tables] [1, 17], got [1, 16]";
    tables_too_long: |call| call.tables = dense(1, 18) => "expected tables [1, tables] [1, 17], got [1, 18]";
    tables_at_an_odd_address: |call| call.tables = dense(1, 17).from(1)
        => "tables: address must be a multiple of 8 bytes, got 4";

    q_with_a_missing_row: |call| call.q = dense(15, KEY)
        => "expected q [batch * q_tokens * heads, 576] [16, 576], got [15, 576]";
    q_without_its_position: |call| call.q = dense(16, LATENT)
        => "expected q [batch * q_tokens * heads, 576] [16, 576], got [16, 512]";
    q_with_an_odd_pitch: |call| call.q = dense(16, KEY).pitch(KEY + 4)
        => "q: pitch must be a multiple of 16 bytes, got 1160";
    q_at_an_odd_address: |call| call.q = dense(16, KEY).from(1)
        => "q: address must be a multiple of 16 bytes, got 2";
    q_longer_than_its_memory: |call| call.q = dense(21, KEY)
        => "[21, 576] with pitch 576 needs 12096 elements, the slice has 11520";

    cache_with_a_missing_page: |call| call.cache = dense(320, KEY)
        => "expected cache [pages * page_size, 576] [384, 576], got [320, 576]";
    cache_of_narrow_rows: |call| call.cache = dense(384, LATENT)
        => "expected cache [pages * page_size, 576] [384, 576], got [384, 512]";
    cache_with_an_odd_pitch: |call| call.cache = dense(384, KEY).pitch(KEY + 1)
        => "cache: pitch must be a multiple of 16 bytes, got 1154";
    cache_at_an_odd_address: |call| call.cache = dense(384, KEY).from(4)
        => "cache: address must be a multiple of 16 bytes, got 8";
    fp8_cache_with_a_missing_page: |call| { call.fp8(); call.cache = dense(320, 656) }
        => "expected cache [pages * page_size, 656] [384, 656], got [320, 656]";
    fp8_cache_of_narrow_rows: |call| { call.fp8(); call.cache = dense(384, KEY) }
        => "expected cache [pages * page_size, 656] [384, 656], got [384, 576]";
    fp8_cache_with_an_odd_pitch: |call| { call.fp8(); call.cache = dense(384, 656).pitch(664) }
        => "cache: pitch must be a multiple of 16 bytes, got 664";
    fp8_cache_at_an_odd_address: |call| { call.fp8(); call.cache = dense(384, 656).from(8) }
        => "cache: address must be a multiple of 16 bytes, got 8";
    fp8_cache_for_a_plan_of_bf16: |call| { call.fp8(); call.spec.format = KvFormat::Bf16 }
        => "expected a cache of BF16 rows, got FP8 rows";
    bf16_cache_for_a_plan_of_fp8: |call| call.spec.format = KvFormat::Fp8
        => "expected a cache of FP8 rows, got BF16 rows";
    contiguous_cache_of_another_capacity: |call| {
        call.spec.paging = CONTIGUOUS;
        call.page_table = None;
        call.cache = dense(192, KEY)
    } => "expected cache [pages * page_size, 576] [384, 576], got [192, 576]";

    page_table_with_a_missing_column: |call| call.page_table = Some(dense(2, 2))
        => "expected page_table [batch, pages_per_sequence] [2, 3], got [2, 2]";
    page_table_of_another_batch: |call| call.page_table = Some(dense(1, 3))
        => "expected page_table [batch, pages_per_sequence] [2, 3], got [1, 3]";
    no_page_table_for_a_paged_cache: |call| call.page_table = None
        => "page_table: expected one, the cache is paged, got none";
    page_table_for_a_contiguous_cache: |call| call.spec.paging = CONTIGUOUS
        => "page_table: expected none, the cache is contiguous, got one";

    partials_too_short: |call| call.partials = dense(1, PARTIALS - 1)
        => "expected partials [1, partials] [1, 24672], got [1, 24671]";
    partials_where_none_are_needed: |call| call.spec.split_keys = 192
        => "expected partials [1, partials] [1, 0], got [1, 24672]";
    partials_at_an_odd_address: |call| call.partials = dense(1, PARTIALS).from(1)
        => "partials: address must be a multiple of 8 bytes, got 4";

    out_with_a_missing_row: |call| call.out = dense(15, LATENT)
        => "expected out [batch * q_tokens * heads, 512] [16, 512], got [15, 512]";
    out_with_an_odd_pitch: |call| call.out = dense(16, LATENT).pitch(LATENT + 2)
        => "out: pitch must be a multiple of 16 bytes, got 1028";
    out_at_an_odd_address: |call| call.out = dense(16, LATENT).from(2)
        => "out: address must be a multiple of 16 bytes, got 4";

    lse_of_the_wrong_tokens: |call| call.lse = dense(2, 8)
        => "expected lse [batch * q_tokens, heads] [4, 4], got [2, 8]";
    lse_with_gaps: |call| call.lse = dense(4, 4).pitch(5)
        => "lse: rows must follow each other without a gap: expected pitch 4, got 5";
}

#[test]
fn splits_of_another_plan() {
    let device = emulated(0);
    let inputs = inputs();
    let scheduled = MlaDecode::plan(&device, SPEC).expect("plan");
    for (spec, got) in [
        (
            MlaDecodeSpec { split_keys: 128, ..SPEC },
            "the splits belong to another shape: expected batch 2, 192 keys a sequence, splits of 128, got batch 2, \
             192 keys a sequence, splits of 64",
        ),
        (
            paged(6, 64, 2),
            "the splits belong to another shape: expected batch 2, 128 keys a sequence, splits of 64, got batch 2, \
             192 keys a sequence, splits of 64",
        ),
        (
            MlaDecodeSpec { batch: 1, ..SPEC },
            "the splits belong to another shape: expected batch 1, 192 keys a sequence, splits of 64, got batch 2, \
             192 keys a sequence, splits of 64",
        ),
    ] {
        let mut memory = outputs();
        let Outputs { tables, partials, out, lse } = &mut memory;
        let lengths = GOOD.lengths.read(&inputs.lengths).expect("view");
        let tables = GOOD.tables.write(tables).expect("view");
        let mut splits = scheduled.schedule(Stream::Emulated, lengths, tables).expect("schedule");
        let plan = MlaDecode::plan(&device, spec).expect("plan");
        let KvPaging::Paged { pages_per_sequence, .. } = spec.paging else { unreachable!() };
        let call = Call {
            q: dense(8 * spec.batch, KEY),
            page_table: Some(dense(spec.batch, pages_per_sequence)),
            partials: dense(1, plan.partials()),
            out: dense(8 * spec.batch, LATENT),
            lse: dense(2 * spec.batch, 4),
            ..GOOD
        };
        let args = args(&call, &inputs, (partials, out, lse)).expect("views");
        assert_eq!(message(plan.attend(Stream::Emulated, &mut splits, args)), got);
        let Outputs { partials, out, lse, .. } = outputs();
        assert!((&memory.partials, &memory.out, &memory.lse) == (&partials, &out, &lse), "written");
    }
}

/// `schedule` and `attend` look at what they take as `run` does.
#[test]
fn the_halves_of_a_step() {
    let device = emulated(0);
    let inputs = inputs();
    let plan = MlaDecode::plan(&device, SPEC).expect("plan");
    let mut memory = outputs();
    let Outputs { tables, partials, out, lse } = &mut memory;
    let lengths = || GOOD.lengths.read(&inputs.lengths).expect("view");
    let short = dense(1, 16).write(tables).expect("view");
    assert_eq!(
        message(plan.schedule(Stream::Emulated, lengths(), short)),
        "expected tables [1, tables] [1, 17], got [1, 16]"
    );
    assert!(tables.iter().all(|&x| x == 0xdead_beef), "written");
    let tables = GOOD.tables.write(tables).expect("view");
    let mut splits = plan.schedule(Stream::Emulated, lengths(), tables).expect("schedule");
    let call = Call { q: dense(16, KEY).from(1), ..GOOD };
    let args = args(&call, &inputs, (partials, out, lse)).expect("views");
    assert_eq!(
        message(plan.attend(Stream::Emulated, &mut splits, args)),
        "q: address must be a multiple of 16 bytes, got 2"
    );
    let Outputs { partials, out, lse, .. } = outputs();
    assert!((&memory.partials, &memory.out, &memory.lse) == (&partials, &out, &lse), "written");
}

// ---------------------------------------------------------------------------------------------------------- bad data

#[test]
fn data_faults_say_what_was_met() {
    let device = emulated(0);
    let reported = |length: i32, page: i32| {
        let mut inputs = inputs();
        inputs.lengths[1] = length;
        inputs.page_table[0] = page;
        let mut memory = outputs();
        let Outputs { tables, partials, out, lse } = &mut memory;
        let args = args(&GOOD, &inputs, (partials, out, lse)).expect("views");
        let plan = MlaDecode::plan(&device, SPEC).expect("plan");
        let lengths = GOOD.lengths.read(&inputs.lengths).expect("view");
        plan.run(Stream::Emulated, lengths, GOOD.tables.write(tables).expect("view"), args).expect("run");
        device.poll_error()
    };
    assert_eq!(reported(64, 3), Ok(()));
    let page = "kernels reported bad data: pages that the cache does not have";
    let length = "kernels reported bad data: sequences longer than their pages, or of negative length";
    assert_eq!(message(reported(64, 6)), page);
    assert_eq!(message(reported(64, -1)), page);
    assert_eq!(message(reported(193, 3)), length);
    assert_eq!(message(reported(-1, 3)), length);
    assert_eq!(
        message(reported(-1, 6)),
        "kernels reported bad data: pages that the cache does not have; sequences longer than their pages, or of \
         negative length"
    );
    assert_eq!(device.poll_error(), Ok(()), "told once");
}
