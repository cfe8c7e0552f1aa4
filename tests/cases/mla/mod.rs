automod::dir!("tests/cases/mla");

use std::sync::Arc;

use check::case::{attempt, memory_of};
use check::memory::Output;
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem};
use check::mla::{CACHES as FORMATS, CacheRows, KEY};
use deepseek_kernels::Device;
use deepseek_kernels::mla::KvFormat;
use oracles::mla::AttentionClass;

pub fn step(format: KvFormat, lengths: &[usize]) -> MlaDecodeCase {
    MlaDecodeCase::new(format, lengths.to_vec())
}

/// Every row of the cache holds a key, and every page of the table exists, so that every length can be read.
pub fn full() -> MlaDecodeProblem {
    let mut problem = step(KvFormat::Bf16, &[100, 128, 100]).problem().expect("inputs");
    assert_eq!(problem.table.len(), 9);
    problem.table = (0..9).collect();
    let CacheRows::Bf16(keys) = &mut problem.cache else { unreachable!() };
    *keys = AttentionClass::Normal.generate(0, keys.len() / KEY, 0, 9).keys;
    problem
}

/// Of an output with so many columns, these rows hold `none` now, and no bit of the others has changed.
fn assert_lost_rows_alone(before: &Output, after: &Output, rows: &[usize], columns: usize, none: f32) {
    let (before, after) = (before.widened(), after.widened());
    for (row, (before, after)) in before.chunks(columns).zip(after.chunks(columns)).enumerate() {
        if rows.contains(&row) {
            assert!(after.iter().all(|&x| x == none), "row {row}: {after:?}");
        } else {
            assert!(before.iter().zip(after).all(|(a, b)| a.to_bits() == b.to_bits()), "row {row}");
        }
    }
}

/// out and lse of a step, after every check.
fn passed(problem: &MlaDecodeProblem, device: &Device) -> Vec<Output> {
    let ran = attempt(Arc::new(problem.clone()), device, memory_of("mla_decode"));
    ran.unwrap_or_else(|error| panic!("{}: {error:#}\n{:?}", device.name(), problem.case)).outputs
}
