automod::dir!("tests/cases/mla");

use std::sync::Arc;

use check::case::{attempt, memory_of};
use check::memory::Output;
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem};
use check::mla::{CacheRows, KEY};
use deepseek_kernels::Device;
use deepseek_kernels::mla::KvFormat;
use oracles::mla::AttentionClass;

const FORMATS: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Fp8];

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

/// out and lse of a step, after every check.
fn passed(problem: &MlaDecodeProblem, device: &Device) -> Vec<Output> {
    let ran = attempt(Arc::new(problem.clone()), device, memory_of("mla_decode"));
    ran.unwrap_or_else(|error| panic!("{}: {error:#}\n{:?}", device.name(), problem.case)).outputs
}
