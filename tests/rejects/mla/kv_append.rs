//! Bad operands and shapes of appends to the KV cache.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::mla::kv_append::{FORMATS, KvAppendCase, KvAppendRun};
use deepseek_kernels::mla::{KvAppend, KvAppendSpec, KvCacheMut, KvFormat};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::{Matrix, MatrixMut, Vector};

use crate::message;

#[test]
fn plans_of_appends() {
    let plan =
        |tokens, rows| message(KvAppend::plan(&emulated(0), KvAppendSpec::new(tokens, rows, KvFormat::Fp8)));
    assert_eq!(plan(1 << 31, 1), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(plan(1, 1 << 31), "rows must be at most 2147483647, got 2147483648");
    for rope in [1, 32, 63, 65, 128, usize::MAX] {
        let spec = KvAppendSpec::new(1, 1, KvFormat::Bf16).rope(rope);
        assert_eq!(message(KvAppend::plan(&emulated(0), spec)), format!("rope must be 0 or 64, got {rope}"));
    }
}

/// Two tokens to a cache of three rows.
fn append(format: (KvFormat, ScaleFormat)) -> KvAppendRun {
    run(KvAppendCase { rows: 3, ..KvAppendCase::new(format, 2) })
}

fn run(case: KvAppendCase) -> KvAppendRun {
    let problem = case.problem().expect("inputs");
    KvAppendRun::new(Arc::new(problem), &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    append(FORMATS[1]);
    latent_with_too_many_tokens: |args, spare| args.latent = Matrix::new(&spare.halves, 3, 512)?
        => "expected latent [tokens, 512] [2, 512], got [3, 512]";
    latent_of_wide_rows: |args, spare| args.latent = Matrix::new(&spare.halves, 2, 576)?
        => "expected latent [tokens, 512] [2, 512], got [2, 576]";
    latent_with_an_odd_pitch: |args, spare| args.latent = Matrix::with_pitch(&spare.halves, 2, 512, 516)?
        => "latent: pitch must be a multiple of 16 bytes, got 1032";
    latent_at_an_odd_address: |args, spare| args.latent = Matrix::new(&spare.halves[1..], 2, 512)?
        => "latent: address must be a multiple of 16 bytes, got 2";
    k_pe_of_narrow_rows: |args, spare| args.k_pe = Some(Matrix::with_pitch(&spare.halves, 2, 32, 64)?)
        => "expected k_pe [tokens, 64] [2, 64], got [2, 32]";
    k_pe_with_an_odd_pitch: |args, spare| args.k_pe = Some(Matrix::with_pitch(&spare.halves, 2, 64, 65)?)
        => "k_pe: pitch must be a multiple of 16 bytes, got 130";
    k_pe_at_an_odd_address: |args, spare| args.k_pe = Some(Matrix::new(&spare.halves[3..], 2, 64)?)
        => "k_pe: address must be a multiple of 16 bytes, got 6";
    no_k_pe_for_keys_with_a_position: |args, _spare| args.k_pe = None
        => "k_pe: expected one, keys have a position of 64 elements, got none";
    slots_with_one_too_many: |args, spare| args.slots = Vector::new(&spare.integers, 3)?.into()
        => "expected slots [tokens] [2], got [3]";
    wide_slots_with_one_missing: |args, spare| args.slots = Vector::new(&spare.longs, 1)?.into()
        => "expected slots [tokens] [2], got [1]";
    unsigned_slots_with_one_missing: |args, spare| args.slots = Vector::new(&spare.words, 1)?.into()
        => "expected slots [tokens] [2], got [1]";
    slots_in_a_column: |args, spare| args.slots = Matrix::new(&spare.integers, 2, 1)?.into()
        => "expected slots [tokens] [2], got [2, 1]";
    wide_slots_in_a_column: |args, spare| args.slots = Matrix::with_pitch(&spare.longs, 2, 1, 3)?.into()
        => "expected slots [tokens] [2], got [2, 1]";

    cache_with_a_row_too_many: |args, spare| args.cache = KvCacheMut::Fp8(MatrixMut::new(&mut spare.bytes, 4, 656)?)
        => "expected cache [pages * page_size, 656] or [pages, page_size * 656] [3, 656], got [4, 656]";
    cache_of_narrow_rows: |args, spare|
        args.cache = KvCacheMut::Fp8(MatrixMut::with_pitch(&mut spare.bytes, 3, 576, 656)?)
        => "expected cache [pages * page_size, 656] or [pages, page_size * 656] [3, 656], got [3, 576]";
    cache_with_an_odd_pitch: |args, spare|
        args.cache = KvCacheMut::Fp8(MatrixMut::with_pitch(&mut spare.bytes, 3, 656, 664)?)
        => "cache: pitch must be a multiple of 16 bytes, got 664";
    cache_at_an_odd_address: |args, spare|
        args.cache = KvCacheMut::Fp8(MatrixMut::new(&mut spare.bytes[8..], 3, 656)?)
        => "cache: address must be a multiple of 16 bytes, got 8";
    // As many columns as the plan's format has do not make it that format.
    cache_of_the_other_format: |args, spare|
        args.cache = KvCacheMut::Bf16(MatrixMut::new(&mut spare.halves, 3, 656)?)
        => "cache: expected FP8 rows, got BF16 rows";
}

rejects! {
    append(FORMATS[0]);
    bf16_cache_of_narrow_rows: |args, spare|
        args.cache = KvCacheMut::Bf16(MatrixMut::with_pitch(&mut spare.halves, 3, 512, 576)?)
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [3, 576], got [3, 512]";
    bf16_cache_with_an_odd_pitch: |args, spare|
        args.cache = KvCacheMut::Bf16(MatrixMut::with_pitch(&mut spare.halves, 3, 576, 580)?)
        => "cache: pitch must be a multiple of 16 bytes, got 1160";
}

rejects! {
    run(KvAppendCase { rope: 0, rows: 3, ..KvAppendCase::new(FORMATS[1], 2) });
    k_pe_for_keys_without_a_position: |args, spare| args.k_pe = Some(Matrix::new(&spare.halves, 2, 64)?)
        => "k_pe: expected none, keys have no position, got one";
    rows_with_a_position: |args, spare| args.cache = KvCacheMut::Fp8(MatrixMut::new(&mut spare.bytes, 3, 656)?)
        => "expected cache [pages * page_size, 528] or [pages, page_size * 528] [3, 528], got [3, 656]";
}

rejects! {
    run(KvAppendCase { rope: 0, rows: 3, ..KvAppendCase::new(FORMATS[0], 2) });
    bf16_rows_with_a_position: |args, spare| args.cache = KvCacheMut::Bf16(MatrixMut::new(&mut spare.halves, 3, 576)?)
        => "expected cache [pages * page_size, 512] or [pages, page_size * 512] [3, 512], got [3, 576]";
}

rejects! {
    append(FORMATS[3]);
    per_tensor_cache_of_wide_rows: |args, spare| {
        args.cache = KvCacheMut::Fp8PerTensor {
            rows: MatrixMut::new(&mut spare.bytes, 3, 656)?,
            scale: Vector::new(&spare.floats, 1)?,
        }
    }
        => "expected cache [pages * page_size, 576] or [pages, page_size * 576] [3, 576], got [3, 656]";
    per_tensor_cache_with_a_scale_per_row: |args, spare| {
        args.cache = KvCacheMut::Fp8PerTensor {
            rows: MatrixMut::new(&mut spare.bytes, 3, 576)?,
            scale: Vector::new(&spare.floats, 3)?,
        }
    }
        => "expected cache scale [1] [1], got [3]";
    fp8_cache_without_its_scale: |args, spare| args.cache = KvCacheMut::Fp8(MatrixMut::new(&mut spare.bytes, 3, 576)?)
        => "cache: expected FP8 rows with a per-tensor scale, got FP8 rows";
}
